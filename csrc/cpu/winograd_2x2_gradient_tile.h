// The vector code of winograd_2x2_gradient.cpp, which includes this file once for each instruction set
// (vector_tiles.h).
#include "winograd_2x2_transforms.h"

// A grad A^T of tiles from `first` on: [16, tiles, padded K]; pixels outside the picture are zeros.
PCONV_TARGET void transform_gradient(
    const Problem& problem, const Geometry& g, const float* grad, int64_t first, int64_t count, int64_t tile_step,
    int64_t plane, float* out) {
    for (int64_t t = 0; t < count; ++t, out += tile_step) {
        const Place place(problem, first + t);
        const int64_t rows = std::min<int64_t>(2, g.p - place.y), columns = std::min<int64_t>(2, g.q - place.x);
        for (int64_t k = 0; k < g.k; k += kLanes) {
            const float* corner = grad + ((place.n * g.p + place.y) * g.q + place.x) * g.k + k;
            Vector half[8];
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j) {
                Vector pixels[2];
#pragma GCC unroll 2
                for (int i = 0; i < 2; ++i)
                    pixels[i] = i < rows && j < columns ? load(corner + (i * g.q + j) * g.k, g.k - k) : Vector{};
                gradient_transform(pixels, half + j, 2);
            }
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                Vector m[4];
                gradient_transform(half + 2 * i, m, 1);
#pragma GCC unroll 4
                for (int j = 0; j < 4; ++j) *reinterpret_cast<Vector*>(out + k + (4 * i + j) * plane) = m[j];
            }
        }
    }
}

// A register tile of du [C, padded K], sums over tiles; `more`: they are added to what is there.
template <int Channels, int Vectors>
PCONV_TARGET void accumulate(
    const float* v, const float* g, int64_t tiles, int64_t v_step, int64_t g_step, bool more, float* du,
    int64_t du_step) {
    Vector sum[Channels][Vectors] = {};
    for (int64_t t = 0; t < tiles; ++t, v += v_step, g += g_step) {
        const auto* const vectors = reinterpret_cast<const Vector*>(g);
#pragma GCC unroll 8
        for (int c = 0; c < Channels; ++c)
#pragma GCC unroll 8
            for (int i = 0; i < Vectors; ++i) sum[c][i] += v[c] * vectors[i];
    }
#pragma GCC unroll 8
    for (int c = 0; c < Channels; ++c)
#pragma GCC unroll 8
        for (int i = 0; i < Vectors; ++i) {
            Vector& to = reinterpret_cast<Vector*>(du + c * du_step)[i];
            to = more ? to + sum[c][i] : sum[c][i];
        }
}

template <int Channels = kTileRows, int Vectors = PCONV_VECTORS>
PCONV_TARGET void accumulate_fitting(
    int64_t channels, int64_t vectors, const float* v, const float* g, int64_t tiles, int64_t v_step, int64_t g_step,
    bool more, float* du, int64_t du_step) {
    if constexpr (Vectors > 1)
        if (vectors < Vectors)
            return accumulate_fitting<Channels, Vectors - 1>(
                channels, vectors, v, g, tiles, v_step, g_step, more, du, du_step);
    if constexpr (Channels > 1)
        if (channels < Channels)
            return accumulate_fitting<Channels - 1, Vectors>(
                channels, vectors, v, g, tiles, v_step, g_step, more, du, du_step);
    accumulate<Channels, Vectors>(v, g, tiles, v_step, g_step, more, du, du_step);
}

// One of the 16 products: a run of channels, and filters from k on, at most a block of them.
PCONV_TARGET void accumulate_block(
    const Run& run, int64_t k, int64_t filters, const float* v, const float* g, int64_t tiles, int64_t v_step,
    int64_t g_step, bool more, float* du, int64_t du_step) {
    const int64_t vectors = (std::min(kBlock, filters - k) + kLanes - 1) / kLanes, end = run.first + run.count;
    for (int64_t c = run.first; c < end; c += kTileRows)
        accumulate_fitting(
            std::min(kTileRows, end - c), vectors, v + c, g + k, tiles, v_step, g_step, more, du + c * du_step + k,
            du_step);
}

PCONV_TARGET void transform_sources(
    const Problem& problem, int64_t first, int64_t count, const float* zeros, int64_t tile_step, int64_t plane,
    float* out) {
    transform_input(problem, first, count, zeros, tile_step, plane, out);
}

#undef PCONV_TARGET
#undef PCONV_LANES
#undef PCONV_VECTORS
