// The vector code of winograd_4x4.cpp, which includes this file once for each instruction set (vector_tiles.h).
#include "winograd_vectors.h"

// One row or column of B^T d B.
PCONV_TARGET inline void forward_transform(const Vector d[6], Vector* out, int step) {
    const Vector even_a = d[4] - kB2 * d[2], odd_a = kA * (d[3] - kB2 * d[1]);
    const Vector even_b = d[4] - kA2 * d[2], odd_b = kB * (d[3] - kA2 * d[1]);
    out[0] = d[0] - kA2B2 * d[2] + d[4];
    out[step] = even_a + odd_a;
    out[2 * step] = even_a - odd_a;
    out[3 * step] = even_b + odd_b;
    out[4 * step] = even_b - odd_b;
    out[5 * step] = d[1] - kA2B2 * d[3] + d[5];
}

// One row or column of A^T m A.
PCONV_TARGET inline void backward_transform(const Vector m[6], Vector* out, int step) {
    const Vector plus_a = m[1] + m[2], minus_a = m[1] - m[2], plus_b = m[3] + m[4], minus_b = m[3] - m[4];
    out[0] = m[0] + plus_a + plus_b;
    out[step] = kA * minus_a + kB * minus_b;
    out[2 * step] = kA2 * plus_a + kB2 * plus_b;
    out[3 * step] = kA3 * minus_a + kB3 * minus_b + m[5];
}

// A 6x6 patch of one vector of channels, its rows and columns `row` and `column` floats apart, into V's 36 planes.
template <bool Gated>
PCONV_TARGET inline void transform_patch(
    const float* x, const float* gate, int64_t row, int64_t column, float* out, int64_t plane) {
    Vector half[36];
#pragma GCC unroll 6
    for (int j = 0; j < 6; ++j) {
        Vector d[6];
#pragma GCC unroll 6
        for (int i = 0; i < 6; ++i) {
            d[i] = *reinterpret_cast<const Unaligned*>(x + i * row + j * column);
            // A select: what the gate closes may hold anything.
            if (Gated) d[i] = *reinterpret_cast<const Unaligned*>(gate + i * row + j * column) > 0 ? d[i] : Vector{};
        }
        forward_transform(d, half + j, 6);
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i) {
        Vector v[6];
        forward_transform(half + 6 * i, v, 1);
#pragma GCC unroll 6
        for (int j = 0; j < 6; ++j) *reinterpret_cast<Vector*>(out + (6 * i + j) * plane) = v[j];
    }
}

// V [36, tiles, padded C] of a block of tiles.
PCONV_TARGET void transform_input(const Problem& p, int64_t first, int64_t tiles, float* out) {
    const int64_t padded = round_up(p.c, kLanes), plane = tiles * padded, row = p.w * p.c;
    for (int64_t t = 0; t < tiles; ++t, out += padded) {
        const Place place(p, first + t);
        const int64_t corner = ((place.n * p.h + place.y - 1) * p.w + place.x - 1) * p.c;
        const bool inside = place.y > 0 && place.y + 5 <= p.h && place.x > 0 && place.x + 5 <= p.w;
        for (int64_t c = 0; c < p.c; c += kLanes) {
            const float* x = p.x + corner + c;
            const float* gate = p.gate ? p.gate + corner + c : nullptr;
            if (inside && p.c - c >= kLanes) {
                if (gate)
                    transform_patch<true>(x, gate, row, p.c, out + c, plane);
                else
                    transform_patch<false>(x, gate, row, p.c, out + c, plane);
                continue;
            }
            Vector patch[36];  // a tile at the border, or a vector beyond the channels: zeros around what there is
            for (int i = 0; i < 6; ++i) {
                for (int j = 0; j < 6; ++j) {
                    const int64_t y = place.y + i - 1, column = place.x + j - 1, at = i * row + j * p.c;
                    const bool exists = y >= 0 && y < p.h && column >= 0 && column < p.w;
                    Vector value = exists ? load(x + at, p.c - c) : Vector{};
                    if (exists && gate) value = load(gate + at, p.c - c) > 0 ? value : Vector{};
                    patch[6 * i + j] = value;
                }
            }
            const auto* values = reinterpret_cast<const float*>(patch);
            transform_patch<false>(values, nullptr, 6 * kLanes, kLanes, out + c, plane);
        }
    }
}

// M [36, tiles, padded K] = V U, for each of the 36 apart.
PCONV_TARGET void multiply_all(const Problem& p, int64_t tiles, const float* v, const float* filters, float* m) {
    const int64_t c = round_up(p.c, kLanes), k = round_up(p.k, kLanes);
    for (int f = 0; f < 36; ++f, v += tiles * c, m += tiles * k, filters += p.c * k)
        for (int64_t block = 0; block < k; block += kBlock)
            for (int64_t t = 0; t < tiles; t += kTileRows)
                multiply_fitting(
                    std::min(kTileRows, tiles - t), std::min(kBlock, k - block) / kLanes, v + t * c,
                    filters + block * p.c, p.c, std::clamp<int64_t>(p.c / 2, 32, 64), c, k, m + t * k + block);
}

PCONV_TARGET void transform_output(const Problem& p, int64_t first, int64_t tiles, const float* m) {
    const int64_t padded = round_up(p.k, kLanes), plane = tiles * padded;
    for (int64_t t = 0; t < tiles; ++t) {
        const Place place(p, first + t);
        const int64_t rows = std::min<int64_t>(4, p.h - place.y), columns = std::min<int64_t>(4, p.w - place.x);
        for (int64_t k = 0; k < p.k; k += kLanes) {
            Vector half[24];
            const float* from = m + t * padded + k;
#pragma GCC unroll 6
            for (int j = 0; j < 6; ++j) {
                Vector column[6];
#pragma GCC unroll 6
                for (int i = 0; i < 6; ++i) column[i] = *reinterpret_cast<const Vector*>(from + (6 * i + j) * plane);
                backward_transform(column, half + j, 6);
            }
            const Vector bias = p.bias ? load(p.bias + k, p.k - k) : Vector{};
            for (int64_t i = 0; i < rows; ++i) {
                float* y = p.y + ((place.n * p.h + place.y + i) * p.w + place.x) * p.k + k;
                Vector out[4];
                backward_transform(half + 6 * i, out, 1);
                for (int64_t j = 0; j < columns; ++j) {
                    Vector value = out[j] + bias;
                    if (p.relu) value = value < 0 ? Vector{} : value;  // NaN stays, as in torch's
                    store(y + j * p.k, value, p.k - k);
                }
            }
        }
    }
}

inline void compute(const Problem& p, int64_t first, int64_t tiles, const float* u, float* v, float* m) {
    transform_input(p, first, tiles, v);
    multiply_all(p, tiles, v, u, m);
    transform_output(p, first, tiles, m);
}

#undef PCONV_TARGET
#undef PCONV_LANES
#undef PCONV_VECTORS
