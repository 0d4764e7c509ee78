// Vectors of channels of the Winograd kernels, and the products of a tile's points. Included once for each instruction
// set by the loops that need them, in a namespace of its own, with PCONV_TARGET, PCONV_LANES and PCONV_VECTORS as
// few_channels_tile.h has them (and for the same reasons no template over the vector, and no include guard).

typedef float Vector __attribute__((vector_size(4 * PCONV_LANES), may_alias));
typedef float Unaligned __attribute__((vector_size(4 * PCONV_LANES), aligned(4), may_alias));

constexpr int64_t kLanes = PCONV_LANES, kBlock = PCONV_LANES * PCONV_VECTORS;

// `channels` values at x, zeros behind them. A last, partial vector must not read past the tensor.
PCONV_TARGET inline Vector load(const float* x, int64_t channels) {
    if (channels >= kLanes) return *reinterpret_cast<const Unaligned*>(x);
    alignas(4 * PCONV_LANES) float values[kLanes] = {};
    for (int64_t i = 0; i < channels; ++i) values[i] = x[i];
    return *reinterpret_cast<const Vector*>(values);
}

PCONV_TARGET inline void store(float* y, const Vector& v, int64_t channels) {
    if (channels >= kLanes) {
        *reinterpret_cast<Unaligned*>(y) = v;
        return;
    }
    for (int64_t i = 0; i < channels; ++i) y[i] = v[i];
}

// A register tile of the products: as in few_channels_tile.h each filter vector that is loaded serves all tiles.
// Channels are added in parts of so many: one long sum would lose more digits than the transforms do.
template <int Tiles, int Vectors>
PCONV_TARGET void multiply(
    const float* v, const float* filters, int64_t channels, int64_t part, int64_t v_step, int64_t m_step, float* m) {
    const auto* u = reinterpret_cast<const Vector*>(filters);
    for (int64_t first = 0; first == 0 || first < channels; first += part) {  // once where there are none
        Vector sum[Tiles][Vectors] = {};
        const int64_t end = std::min(first + part, channels);
        for (int64_t c = first; c < end; ++c, u += Vectors) {
#pragma GCC unroll 8
            for (int j = 0; j < Tiles; ++j)
#pragma GCC unroll 8
                for (int i = 0; i < Vectors; ++i) sum[j][i] += v[j * v_step + c] * u[i];
        }
#pragma GCC unroll 8
        for (int j = 0; j < Tiles; ++j)
#pragma GCC unroll 8
            for (int i = 0; i < Vectors; ++i) {
                Vector& to = reinterpret_cast<Vector*>(m + j * m_step)[i];
                to = first == 0 ? sum[j][i] : to + sum[j][i];
            }
    }
}

template <int Tiles = kTileRows, int Vectors = PCONV_VECTORS>
PCONV_TARGET void multiply_fitting(
    int64_t tiles, int64_t vectors, const float* v, const float* u, int64_t channels, int64_t part, int64_t v_step,
    int64_t m_step, float* m) {
    if constexpr (Vectors > 1)
        if (vectors < Vectors)
            return multiply_fitting<Tiles, Vectors - 1>(tiles, vectors, v, u, channels, part, v_step, m_step, m);
    if constexpr (Tiles > 1)
        if (tiles < Tiles)
            return multiply_fitting<Tiles - 1, Vectors>(tiles, vectors, v, u, channels, part, v_step, m_step, m);
    multiply<Tiles, Vectors>(v, u, channels, part, v_step, m_step, m);
}
