// The epilogue y = ratio * y + bias and its mirror image, ratio * grad with the bias gradient.
#include "activation.h"
#include "by_dtype.h"
#include "kernels.h"
#include "numeric.h"
#include "parallel.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace pconv::cpu {
namespace {

constexpr int64_t kSumBlock = 1024;  // pixels that are summed before the partial sum is put aside

// Forward ---------------------------------------------------------------------------------------------------

// One channel's pixels, each with its own ratio.
template <class T>
PCONV_INLINE void plane_forward(
    const T* raw, const precise_t<T>* ratio, precise_t<T> bias, precise_t<T> negative_slope, int64_t count, T* y) {
    const bool relu = negative_slope == 0;
#pragma GCC ivdep  // y is raw or apart from it
    for (int64_t i = 0; i < count; ++i) {
        const precise_t<T> value = load(raw[i]) * ratio[i] + bias;
        store(y[i], ratio[i] > 0 ? activated(value, negative_slope, relu) : 0);
    }
}

// One pixel's channels, all with one ratio. In place, pixels that would not change are not even read.
template <class T>
PCONV_INLINE void pixels_forward(
    const T* raw, const precise_t<T>* ratio, const precise_t<T>* bias, precise_t<T> negative_slope, int64_t count,
    int64_t channels, int64_t step, T* y) {
    const bool relu = negative_slope == 0;
    for (int64_t i = 0; i < count; ++i, raw += step, y += step) {
        const precise_t<T> r = ratio[i];
        if (r == 0) {
            std::memset(static_cast<void*>(y), 0, channels * sizeof(T));
        } else if (bias) {
#pragma GCC ivdep
            for (int64_t k = 0; k < channels; ++k)
                store(y[k], activated(load(raw[k]) * r + bias[k], negative_slope, relu));
        } else if (r != 1 || negative_slope != 1) {
#pragma GCC ivdep
            for (int64_t k = 0; k < channels; ++k) store(y[k], activated(load(raw[k]) * r, negative_slope, relu));
        } else if (y != raw) {
            std::memcpy(static_cast<void*>(y), raw, channels * sizeof(T));
        }
    }
}

// Backward --------------------------------------------------------------------------------------------------

template <class T>
PCONV_INLINE void plane_scale(const T* grad, const precise_t<T>* ratio, int64_t count, T* __restrict scaled) {
    for (int64_t i = 0; i < count; ++i) store(scaled[i], ratio[i] > 0 ? load(grad[i]) * ratio[i] : 0);
}

// In double, pairwise over short blocks. (Not running sums in an array of lanes: g++ 12 vectorises
// a conditional sum of that form wrongly for AVX2 and AVX-512.)
template <class T>
PCONV_INLINE double plane_sum(const T* grad, const precise_t<T>* ratio, int64_t count) {
    constexpr int64_t kBlock = 64;
    double total = 0;
    for (int64_t start = 0; start < count; start += kBlock) {
        double picked[kBlock];
        const int64_t here = std::min(kBlock, count - start);
        for (int64_t i = 0; i < here; ++i) picked[i] = ratio[start + i] > 0 ? load(grad[start + i]) : 0.0;
        for (int64_t i = here; i < kBlock; ++i) picked[i] = 0;
        for (int64_t half = kBlock / 2; half > 0; half /= 2)
            for (int64_t i = 0; i < half; ++i) picked[i] += picked[i + half];
        total += picked[0];
    }
    return total;
}

template <class T>
PCONV_INLINE void pixels_backward(
    const T* grad, const precise_t<T>* ratio, int64_t count, int64_t channels, int64_t step, T* __restrict scaled,
    double* __restrict sums) {
    for (int64_t i = 0; i < count; ++i) {
        const precise_t<T> r = ratio[i];
        const T* source = grad + i * step;
        if (scaled) {
            T* target = scaled + i * step;
            if (r == 0)
                std::memset(static_cast<void*>(target), 0, channels * sizeof(T));
            else
                for (int64_t k = 0; k < channels; ++k) store(target[k], load(source[k]) * r);
        }
        if (sums && r > 0)
            for (int64_t k = 0; k < channels; ++k) sums[k] += load(source[k]);
    }
}

// One vectorised copy of each loop for each element type: loops are cloned, templates cannot be.
template <class T>
struct Loops;
#define PCONV_LOOPS(T, NAME)                                                                                          \
    PCONV_CLONES void plane_forward_##NAME(                                                                           \
        const T* x, const precise_t<T>* r, precise_t<T> b, precise_t<T> l, int64_t n, T* y) {                         \
        plane_forward<T>(x, r, b, l, n, y);                                                                           \
    }                                                                                                                 \
    PCONV_CLONES void pixels_forward_##NAME(                                                                          \
        const T* x, const precise_t<T>* r, const precise_t<T>* b, precise_t<T> l, int64_t n, int64_t c, int64_t step, \
        T* y) {                                                                                                       \
        pixels_forward<T>(x, r, b, l, n, c, step, y);                                                                 \
    }                                                                                                                 \
    PCONV_CLONES void plane_scale_##NAME(const T* g, const precise_t<T>* r, int64_t n, T* s) {                        \
        plane_scale<T>(g, r, n, s);                                                                                   \
    }                                                                                                                 \
    PCONV_CLONES double plane_sum_##NAME(const T* g, const precise_t<T>* r, int64_t n) {                              \
        return plane_sum<T>(g, r, n);                                                                                 \
    }                                                                                                                 \
    PCONV_CLONES void pixels_backward_##NAME(                                                                         \
        const T* g, const precise_t<T>* r, int64_t n, int64_t c, int64_t step, T* s, double* sums) {                  \
        pixels_backward<T>(g, r, n, c, step, s, sums);                                                                \
    }                                                                                                                 \
    template <>                                                                                                       \
    struct Loops<T> {                                                                                                 \
        static constexpr auto plane_forward = plane_forward_##NAME;                                                   \
        static constexpr auto pixels_forward = pixels_forward_##NAME;                                                 \
        static constexpr auto plane_scale = plane_scale_##NAME;                                                       \
        static constexpr auto plane_sum = plane_sum_##NAME;                                                           \
        static constexpr auto pixels_backward = pixels_backward_##NAME;                                               \
    };
PCONV_EACH_TYPE(PCONV_LOOPS)
#undef PCONV_LOOPS

// The ratios of picture n for output channel k's group.
template <class T>
const precise_t<T>* ratios_of(const Geometry& g, const Ratio& ratio, int64_t n, int64_t group) {
    const int64_t image = ratio.n == 1 ? 0 : n;
    return static_cast<const precise_t<T>*>(ratio.values) + (image * ratio.groups + group) * g.p * g.q;
}

template <class T>
void forward(const Geometry& g, const Ratio& ratio, const void* bias, precise_t<T> negative_slope, const T* raw, T* y) {
    const auto wide_bias = widened<T>(bias, g.k);
    const int64_t pixels = g.p * g.q, group_channels = g.k / ratio.groups;
    if (g.layout == Layout::nchw) {
        parallel_for(g.n * g.k, grain_for(2 * pixels * sizeof(T)), [&](int64_t begin, int64_t end) {
            for (int64_t plane = begin; plane < end; ++plane) {
                const int64_t n = plane / g.k, k = plane % g.k;
                Loops<T>::plane_forward(
                    raw + plane * pixels, ratios_of<T>(g, ratio, n, k / group_channels), bias ? wide_bias[k] : 0,
                    negative_slope, pixels, y + plane * pixels);
            }
        });
        return;
    }
    parallel_for(g.n * g.p, grain_for(2 * g.q * g.k * sizeof(T)), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            for (int64_t group = 0; group < ratio.groups; ++group) {
                const int64_t first = group * group_channels, offset = row * g.q * g.k + first;
                Loops<T>::pixels_forward(
                    raw + offset, ratios_of<T>(g, ratio, row / g.p, group) + row % g.p * g.q,
                    bias ? wide_bias.data() + first : nullptr, negative_slope, g.q, group_channels, g.k, y + offset);
            }
        }
    });
}

// Work is cut into pieces of kSumBlock pixels whatever the number of threads; each leaves a row of partial sums,
// and the rows are added in order. A contiguous tensor is walked plane by plane, for there a channel's pixels are
// neighbours; a channels_last one piece by piece, with K sums at once. Either order gives the same rows.
template <class T>
void backward(const Geometry& g, const Ratio& ratio, const T* grad, T* scaled, double* sums) {
    const int64_t pixels = g.p * g.q, group_channels = g.k / ratio.groups;
    const int64_t pieces = (pixels + kSumBlock - 1) / kSumBlock;
    std::vector<double> partial(sums ? g.n * pieces * g.k : 0, 0.0);
    const bool nchw = g.layout == Layout::nchw;
    const int64_t jobs = nchw ? g.n * g.k : g.n * pieces;
    parallel_for(jobs, grain_for(2 * (nchw ? pixels : kSumBlock * g.k) * sizeof(T)), [&](int64_t begin, int64_t end) {
        for (int64_t job = begin; job < end; ++job) {
            if (nchw) {
                const int64_t n = job / g.k, k = job % g.k;
                const auto* r = ratios_of<T>(g, ratio, n, k / group_channels);
                const T* source = grad + job * pixels;
                if (scaled) Loops<T>::plane_scale(source, r, pixels, scaled + job * pixels);
                for (int64_t piece = 0; sums && piece < pieces; ++piece) {
                    const int64_t first = piece * kSumBlock;
                    partial[(n * pieces + piece) * g.k + k] =
                        Loops<T>::plane_sum(source + first, r + first, std::min(kSumBlock, pixels - first));
                }
                continue;
            }
            const int64_t n = job / pieces, first = job % pieces * kSumBlock;
            for (int64_t group = 0; group < ratio.groups; ++group) {
                const int64_t offset = (n * pixels + first) * g.k + group * group_channels;
                Loops<T>::pixels_backward(
                    grad + offset, ratios_of<T>(g, ratio, n, group) + first, std::min(kSumBlock, pixels - first),
                    group_channels, g.k, scaled ? scaled + offset : nullptr,
                    sums ? partial.data() + job * g.k + group * group_channels : nullptr);
            }
        }
    });
    for (int64_t k = 0; sums && k < g.k; ++k)
        for (int64_t piece = 0; piece < g.n * pieces; ++piece) sums[k] += partial[piece * g.k + k];
}

}  // namespace

void renormalise(
    const Geometry& g, const Ratio& ratio, const void* bias, double negative_slope, const void* raw, void* y) {
    by_dtype(g.dtype, [&](auto kind) {
        using T = decltype(kind);
        forward<T>(g, ratio, bias, precise_t<T>(negative_slope), static_cast<const T*>(raw), static_cast<T*>(y));
    });
}

void scale_gradient(const Geometry& g, const Ratio& ratio, const void* grad, void* scaled, double* sums) {
    by_dtype(g.dtype, [&](auto kind) {
        using T = decltype(kind);
        backward<T>(g, ratio, static_cast<const T*>(grad), static_cast<T*>(scaled), sums);
    });
}

void add_to_sums(DType dtype, const void* term, int64_t count, double* sums) {
    by_dtype(dtype, [&](auto kind) {
        using T = decltype(kind);
        for (int64_t i = 0; i < count; ++i) sums[i] += load(static_cast<const T*>(term)[i]);
    });
}

void round_sums(DType dtype, const double* sums, int64_t count, void* out) {
    by_dtype(dtype, [&](auto kind) {
        using T = decltype(kind);
        for (int64_t i = 0; i < count; ++i) store(static_cast<T*>(out)[i], precise_t<T>(sums[i]));
    });
}

}  // namespace pconv::cpu
