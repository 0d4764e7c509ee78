// The passes around the library's convolutions in the decoder's stage: the forward's phases put in their places while
// the result is renormalised, and the gradient taken apart into phases.
#include "activation.h"
#include "by_dtype.h"
#include "kernels.h"
#include "parallel.h"
#include "phases.h"

#include <cstring>

namespace pconv::cpu {
namespace {

// One pixel's channels: y = ratio * (y + up) + bias, activated.
template <class T>
PCONV_INLINE void finish_pixel(
    const T* up, precise_t<T> ratio, const precise_t<T>* bias, precise_t<T> negative_slope, int64_t channels,
    T* __restrict y) {
    const bool relu = negative_slope == 0;
    if (bias)
        for (int64_t k = 0; k < channels; ++k)
            store(y[k], activated((load(y[k]) + load(up[k])) * ratio + bias[k], negative_slope, relu));
    else
        for (int64_t k = 0; k < channels; ++k)
            store(y[k], activated((load(y[k]) + load(up[k])) * ratio, negative_slope, relu));
}

// A row of pixels, channels last. even, odd: where the phases of the columns of either parity begin; neighbours of one
// parity lie 4 K apart.
template <class T>
PCONV_INLINE void finish_pixels(
    const T* even, const T* odd, const precise_t<T>* ratio, const precise_t<T>* bias, precise_t<T> negative_slope,
    int64_t width, int64_t channels, T* y) {
    for (int64_t x = 0; x < width; ++x, y += channels) {
        if (ratio[x] > 0)
            finish_pixel<T>((x % 2 ? odd : even) + (x / 2) * 4 * channels, ratio[x], bias, negative_slope, channels, y);
        else
            std::memset(static_cast<void*>(y), 0, channels * sizeof(T));
    }
}

// A row of one channel, channels first.
template <class T>
PCONV_INLINE void finish_row(
    const T* even, const T* odd, const precise_t<T>* ratio, precise_t<T> bias, precise_t<T> negative_slope,
    int64_t width, T* y) {
    const bool relu = negative_slope == 0;
    for (int64_t q = 0; q < width / 2; ++q) {
        const precise_t<T> left = (load(y[2 * q]) + load(even[q])) * ratio[2 * q] + bias;
        const precise_t<T> right = (load(y[2 * q + 1]) + load(odd[q])) * ratio[2 * q + 1] + bias;
        store(y[2 * q], ratio[2 * q] > 0 ? activated(left, negative_slope, relu) : 0);
        store(y[2 * q + 1], ratio[2 * q + 1] > 0 ? activated(right, negative_slope, relu) : 0);
    }
}

template <class T>
struct Loops;
#define PCONV_LOOPS(T, NAME)                                                                                   \
    PCONV_CLONES void finish_pixels_##NAME(                                                                    \
        const T* even, const T* odd, const precise_t<T>* r, const precise_t<T>* b, precise_t<T> s, int64_t w,  \
        int64_t k, T* y) {                                                                                     \
        finish_pixels<T>(even, odd, r, b, s, w, k, y);                                                         \
    }                                                                                                          \
    PCONV_CLONES void finish_row_##NAME(                                                                       \
        const T* even, const T* odd, const precise_t<T>* r, precise_t<T> b, precise_t<T> s, int64_t w, T* y) { \
        finish_row<T>(even, odd, r, b, s, w, y);                                                               \
    }                                                                                                          \
    template <>                                                                                                \
    struct Loops<T> {                                                                                          \
        static constexpr auto pixels = finish_pixels_##NAME;                                                   \
        static constexpr auto row = finish_row_##NAME;                                                         \
    };
PCONV_EACH_TYPE(PCONV_LOOPS)
#undef PCONV_LOOPS

// Rows of the picture: of all channels, or channels first of one channel each.
int64_t rows_of(const Geometry& g) { return g.layout == Layout::nhwc ? g.n * g.p : g.n * g.k * g.p; }
int64_t row_elements(const Geometry& g) { return g.layout == Layout::nhwc ? g.q * g.k : g.q; }

template <class T>
void finish(const Geometry& g, const Ratio& ratio, const T* up, const void* bias, double negative_slope, T* y) {
    const auto wide_bias = widened<T>(bias, g.k);
    const PhasePlace place{g.p / 2, g.q / 2, g.k};
    const auto* ratios = static_cast<const precise_t<T>*>(ratio.values);
    parallel_for(rows_of(g), grain_for(3 * row_elements(g) * sizeof(T)), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const int64_t y0 = row % g.p, plane = row / g.p, a = y0 % 2;
            const int64_t n = g.layout == Layout::nhwc ? plane : plane / g.k, k = plane - n * g.k;
            const auto* r = ratios + ((ratio.n == 1 ? 0 : n) * g.p + y0) * g.q;
            if (g.layout == Layout::nhwc) {
                Loops<T>::pixels(
                    up + place.nhwc(n, y0, 0), up + place.nhwc(n, y0, 1), r, bias ? wide_bias.data() : nullptr,
                    precise_t<T>(negative_slope), g.q, g.k, y + row * g.q * g.k);
            } else {
                const int64_t start = (y0 / 2 + a) * (g.q / 2 + 1);
                Loops<T>::row(
                    up + place.nchw(n, k, a, 0) + start, up + place.nchw(n, k, a, 1) + start + 1, r,
                    bias ? wide_bias[k] : precise_t<T>(0), precise_t<T>(negative_slope), g.q, y + row * g.q);
            }
        }
    });
}

// Row y of the gradient into its two phases. What no pixel fills, one edge row and column of each phase, is zero.
template <class T>
void spread(const Geometry& g, const T* scaled, T* up) {
    const int64_t half_w = g.q / 2;
    const PhasePlace place{g.p / 2, half_w, g.k};
    parallel_for(rows_of(g), grain_for(2 * row_elements(g) * sizeof(T)), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            const int64_t y = row % g.p, plane = row / g.p, a = y % 2;
            const T* source = scaled + row * row_elements(g);
            if (g.layout == Layout::nhwc) {
                for (int64_t x = 0; x < g.q; ++x)
                    std::memcpy(up + place.nhwc(plane, y, x), source + x * g.k, g.k * sizeof(T));
            } else {
                const int64_t n = plane / g.k, start = (y / 2 + a) * (half_w + 1);
                T* even = up + place.nchw(n, plane - n * g.k, a, 0) + start;
                T* odd = up + place.nchw(n, plane - n * g.k, a, 1) + start + 1;
                for (int64_t q = 0; q < half_w; ++q) even[q] = source[2 * q], odd[q] = source[2 * q + 1];
            }
        }
    });
}

// Zeros at the edges: phase row a = 0 has no pixel at the bottom row, a = 1 none at the top; columns alike.
template <class T>
void clear_edges(const Geometry& g, T* up) {
    const int64_t h = g.p / 2, w = g.q / 2;
    const bool nhwc = g.layout == Layout::nhwc;
    parallel_for(g.n * 4 * (nhwc ? 1 : g.k), 1, [&](int64_t begin, int64_t end) {
        for (int64_t job = begin; job < end; ++job) {
            // Channels last: this phase's part of every pixel of one image. Channels first: one plane.
            const int64_t phase = nhwc ? job % 4 : job / g.k % 4;
            const int64_t run = nhwc ? g.k : 1, step = nhwc ? 4 * g.k : 1;
            T* first = nhwc ? up + (job / 4) * (h + 1) * (w + 1) * step + phase * g.k : up + job * (h + 1) * (w + 1);
            const int64_t row = phase / 2 ? 0 : h, column = phase % 2 ? 0 : w;
            for (int64_t j = 0; j <= w; ++j)
                std::memset(static_cast<void*>(first + (row * (w + 1) + j) * step), 0, run * sizeof(T));
            for (int64_t i = 0; i <= h; ++i)
                std::memset(static_cast<void*>(first + (i * (w + 1) + column) * step), 0, run * sizeof(T));
        }
    });
}

}  // namespace

void upcat_finish(
    const Geometry& g, const Ratio& ratio, const void* up, const void* bias, double negative_slope, void* y) {
    by_dtype(g.dtype, [&](auto kind) {
        using T = decltype(kind);
        finish<T>(g, ratio, static_cast<const T*>(up), bias, negative_slope, static_cast<T*>(y));
    });
}

void upcat_spread(const Geometry& g, const void* scaled, void* up) {
    by_dtype(g.dtype, [&](auto kind) {
        using T = decltype(kind);
        clear_edges<T>(g, static_cast<T*>(up));
        spread<T>(g, static_cast<const T*>(scaled), static_cast<T*>(up));
    });
}

}  // namespace pconv::cpu
