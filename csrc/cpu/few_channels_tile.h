// The register tile of few_channels.cpp, which includes this file once for each instruction set, in a namespace of its
// own, with PCONV_TARGET (the function attribute), PCONV_LANES (floats in a vector) and PCONV_VECTORS (of a full tile).
// Not a template over the vector: g++ takes vectors apart where a function's own target lacks them, and only then
// inlines. No include guard, for the same reason.

typedef float Vector __attribute__((vector_size(4 * PCONV_LANES), may_alias));
typedef float Unaligned __attribute__((vector_size(4 * PCONV_LANES), aligned(4), may_alias));  // y and the bias

constexpr int64_t kLanes = PCONV_LANES, kBlock = PCONV_LANES * PCONV_VECTORS;

// Each weight vector that is loaded serves all pixels, each pixel's value all vectors: at 6 x 4 of 32 registers
// (AVX-512) or 6 x 2 of 16 (AVX2) the multiplications, not the loads, are what takes the time.
template <int Pixels, int Vectors>
PCONV_TARGET void compute(const Tile& t) {
    Vector sum[Pixels][Vectors] = {};
    const auto* weight = reinterpret_cast<const Vector*>(t.weight);
    for (int64_t r = 0; r < t.window_rows; ++r) {
        for (int64_t segment = 0; segment < t.segments; ++segment) {
            const float* x = t.rows[r] + t.column + segment * t.jump;
            for (int64_t i = 0; i < t.length; ++i, ++x, weight += Vectors) {
#pragma GCC unroll 8
                for (int j = 0; j < Pixels; ++j)
#pragma GCC unroll 8
                    for (int v = 0; v < Vectors; ++v) sum[j][v] += x[j * t.step] * weight[v];
            }
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < Pixels; ++j) {
        auto* y = reinterpret_cast<Unaligned*>(t.y + j * t.channels);
        const float ratio = t.ratio[j];
#pragma GCC unroll 8
        for (int v = 0; v < Vectors; ++v) {
            Vector value = sum[j][v] * ratio;
            if (t.bias) value += reinterpret_cast<const Unaligned*>(t.bias)[v];
            // The activation; -inf has no product with a negative_slope of 0, NaN stays.
            if (t.negative_slope != 1)
                value = value < 0 ? (t.negative_slope == 0 ? Vector{} : value * t.negative_slope) : value;
            y[v] = ratio > 0 ? value : Vector{};  // a select: weights of infinity make NaN of an empty window
        }
    }
}

// The full tile, or at the end of a row or of the channels the smaller one that fits.
template <int Pixels = kPixels, int Vectors = PCONV_VECTORS>
PCONV_TARGET void compute_fitting(const Tile& t, int64_t pixels, int64_t vectors) {
    if constexpr (Vectors > 1)
        if (vectors < Vectors) return compute_fitting<Pixels, Vectors - 1>(t, pixels, vectors);
    if constexpr (Pixels > 1)
        if (pixels < Pixels) return compute_fitting<Pixels - 1, Vectors>(t, pixels, vectors);
    compute<Pixels, Vectors>(t);
}

inline void compute_any(const Tile& t, int64_t pixels, int64_t channels) {
    compute_fitting(t, pixels, channels / kLanes);
}

#undef PCONV_TARGET
#undef PCONV_LANES
#undef PCONV_VECTORS
