// The decoder's stage where phases do not pay: small pictures are doubled and joined, masked on the way, and
// their gradient is summed back.
#include "by_dtype.h"
#include "kernels.h"
#include "parallel.h"

#include <cstring>

namespace pconv::cpu {
namespace {

template <class T>
void join(
    const Geometry& g, int64_t low_channels, const T* low, const T* skip, const uint8_t* valid, int64_t mask_n,
    T* out) {
    const int64_t cu = low_channels, cs = g.c - cu, pixels = g.h * g.w, half_w = g.w / 2;
    if (g.layout == Layout::nhwc) {
        parallel_for(g.n * g.h, grain_for(2 * g.w * g.c * sizeof(T)), [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                const int64_t n = row / g.h, y = row % g.h;
                const uint8_t* up_valid = valid + (mask_n == 1 ? 0 : n) * 2 * pixels + y * g.w;
                for (int64_t x = 0; x < g.w; ++x) {
                    T* target = out + (row * g.w + x) * g.c;
                    const T* up = low + ((n * (g.h / 2) + y / 2) * half_w + x / 2) * cu;
                    if (up_valid[x])
                        std::memcpy(target, up, cu * sizeof(T));
                    else
                        std::memset(static_cast<void*>(target), 0, cu * sizeof(T));
                    if (up_valid[pixels + x])
                        std::memcpy(target + cu, skip + (row * g.w + x) * cs, cs * sizeof(T));
                    else
                        std::memset(static_cast<void*>(target + cu), 0, cs * sizeof(T));
                }
            }
        });
        return;
    }
    parallel_for(g.n * g.c, grain_for(2 * pixels * sizeof(T)), [&](int64_t begin, int64_t end) {
        for (int64_t plane = begin; plane < end; ++plane) {
            const int64_t n = plane / g.c, c = plane % g.c;
            const uint8_t* m = valid + ((mask_n == 1 ? 0 : n) * 2 + (c >= cu)) * pixels;
            T* target = out + plane * pixels;
            const T* source = c < cu ? low + (n * cu + c) * (pixels / 4) : skip + (n * cs + c - cu) * pixels;
            for (int64_t i = 0; i < pixels; ++i) {
                const int64_t y = i / g.w, x = i % g.w;
                const int64_t at = c < cu ? y / 2 * half_w + x / 2 : i;
                target[i] = m[i] ? source[at] : T{};
            }
        }
    });
}

// Four pixels' gradients are one pixel's of the small picture, added in fp32 (fp64) in a fixed order.
template <class T>
void part(const Geometry& g, int64_t low_channels, const T* joined, T* low, T* skip) {
    const int64_t cu = low_channels, cs = g.c - cu, half_h = g.h / 2, half_w = g.w / 2;
    const bool nhwc = g.layout == Layout::nhwc;
    const int64_t pixel = nhwc ? g.c : 1, row = pixel * g.w;
    parallel_for(g.n * half_h, grain_for(4 * row * sizeof(T)), [&](int64_t begin, int64_t end) {
        for (int64_t job = begin; job < end; ++job) {
            const int64_t n = job / half_h, p = job % half_h;
            for (int64_t c = 0; low && c < cu; ++c)
                for (int64_t q = 0; q < half_w; ++q) {
                    const T* four = nhwc ? joined + ((n * g.h + 2 * p) * g.w + 2 * q) * g.c + c
                                         : joined + ((n * g.c + c) * g.h + 2 * p) * g.w + 2 * q;
                    const precise_t<T> sum =
                        (load(four[0]) + load(four[pixel])) + (load(four[row]) + load(four[row + pixel]));
                    store(low[nhwc ? (job * half_w + q) * cu + c : ((n * cu + c) * half_h + p) * half_w + q], sum);
                }
            for (int64_t y = 2 * p; skip && y < 2 * p + 2; ++y) {
                for (int64_t x = 0; nhwc && x < g.w; ++x) {
                    const int64_t at = (n * g.h + y) * g.w + x;
                    std::memcpy(skip + at * cs, joined + at * g.c + cu, cs * sizeof(T));
                }
                for (int64_t c = 0; !nhwc && c < cs; ++c)
                    std::memcpy(
                        skip + ((n * cs + c) * g.h + y) * g.w, joined + ((n * g.c + cu + c) * g.h + y) * g.w,
                        g.w * sizeof(T));
            }
        }
    });
}

}  // namespace

void upcat_masks(const Geometry& g, const Mask& low, const Mask& skip, int64_t batch, uint8_t* out) {
    const int64_t half_w = g.w / 2, pixels = g.h * g.w;
    parallel_for(batch * g.h, grain_for(4 * g.w), [&](int64_t begin, int64_t end) {
        for (int64_t job = begin; job < end; ++job) {
            const int64_t n = job / g.h, y = job % g.h;
            uint8_t* target = out + n * 2 * pixels + y * g.w;
            const uint8_t* up = low.bytes ? low.bytes + n * low.batch_step + y / 2 * half_w : nullptr;
            for (int64_t q = 0; q < half_w; ++q) target[2 * q] = target[2 * q + 1] = up ? up[q] : 1;
            if (skip.bytes)
                std::memcpy(target + pixels, skip.bytes + n * skip.batch_step + y * g.w, g.w);
            else
                std::memset(target + pixels, 1, g.w);
        }
    });
}

void upcat_join(
    const Geometry& g, int64_t low_channels, const void* low, const void* skip, const uint8_t* valid, int64_t mask_n,
    void* joined) {
    by_dtype(g.dtype, [&](auto kind) {
        using T = decltype(kind);
        join<T>(
            g, low_channels, static_cast<const T*>(low), static_cast<const T*>(skip), valid, mask_n,
            static_cast<T*>(joined));
    });
}

void upcat_part(const Geometry& g, int64_t low_channels, const void* joined, void* low, void* skip) {
    by_dtype(g.dtype, [&](auto kind) {
        using T = decltype(kind);
        part<T>(g, low_channels, static_cast<const T*>(joined), static_cast<T*>(low), static_cast<T*>(skip));
    });
}

}  // namespace pconv::cpu
