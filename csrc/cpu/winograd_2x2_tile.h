// The vector code of winograd_2x2.cpp, which includes this file once for each instruction set (vector_tiles.h).
#include "winograd_2x2_transforms.h"

// A register tile of the products: as in few_channels_tile.h each filter vector that is loaded serves all tiles.
// Channels are added in parts, for a long sum loses more digits.
template <int Tiles, int Vectors>
PCONV_TARGET void multiply(
    const float* v, const float* filters, int64_t channels, int64_t v_step, int64_t m_step, float* m) {
    const auto* u = reinterpret_cast<const Vector*>(filters);
    constexpr int64_t part = 64;
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
    int64_t tiles, int64_t vectors, const float* v, const float* u, int64_t channels, int64_t v_step, int64_t m_step,
    float* m) {
    if constexpr (Vectors > 1)
        if (vectors < Vectors)
            return multiply_fitting<Tiles, Vectors - 1>(tiles, vectors, v, u, channels, v_step, m_step, m);
    if constexpr (Tiles > 1)
        if (tiles < Tiles)
            return multiply_fitting<Tiles - 1, Vectors>(tiles, vectors, v, u, channels, v_step, m_step, m);
    multiply<Tiles, Vectors>(v, u, channels, v_step, m_step, m);
}

// M [16, tiles, padded slice] = V U, for each of the 16 apart, without those that vanish for the channels in question.
PCONV_TARGET inline void multiply_all(
    const Conv3x3& conv, const Slice& slice, int64_t low_inputs, int64_t low_outputs, int64_t tiles, const float* v,
    const float* filters, float* m) {
    const int64_t c = round_up(conv.c, kLanes), k = round_up(slice.count, kLanes);
    for (int point = 0; point < kPoints; ++point, v += tiles * c, m += tiles * k, filters += conv.c * k) {
        const int64_t from = vanishes(point) ? low_inputs : 0;
        for (int64_t block = 0; block < k; block += kBlock) {
            const int64_t width = std::min(kBlock, k - block);
            if (vanishes(point) && slice.first + block + width <= low_outputs) continue;
            for (int64_t t = 0; t < tiles; t += kTileRows)
                multiply_fitting(
                    std::min(kTileRows, tiles - t), width / kLanes, v + t * c + from,
                    filters + block * conv.c + from * width, conv.c - from, c, k, m + t * k + block);
        }
    }
}

// The outputs of one tile and one vector of filters as they are; value behind a ratio, a bias and an activation.
struct Finish {
    Vector bias;
    float negative_slope;
};
PCONV_TARGET inline Vector finished(Vector value, const Finish& finish) {
    value += finish.bias;
    // The activation; -inf has no product with a negative_slope of 0, NaN stays, as in torch's.
    if (finish.negative_slope != 1)
        value = value < 0 ? (finish.negative_slope == 0 ? Vector{} : value * finish.negative_slope) : value;
    return value;
}

// Of `rows` x `columns` outputs: all with their ratios, or cleared where the mask has holes.
PCONV_TARGET inline void put_full(
    const Conv3x3& conv, const Output3x3& output, const Place& place, int64_t rows, int64_t columns, int64_t first,
    const Vector* out) {
    const int64_t channels = conv.k - output.low_channels, k = first - output.low_channels;
    const Finish finish{output.bias ? load(output.bias + first, conv.k - first) : Vector{}, output.negative_slope};
    for (int64_t i = 0; i < rows; ++i) {
        const int64_t at = (place.y + i) * conv.w + place.x;
        float* y = output.full + ((place.n * conv.h * conv.w + at) * channels + k);
        const float* ratio = output.ratio ? output.ratio + place.n * output.ratio_step + at : nullptr;
        const uint8_t* valid = output.full_valid ? output.full_valid + place.n * output.full_valid_step + at : nullptr;
        for (int64_t j = 0; j < columns; ++j) {
            const bool kept = (!ratio || ratio[j] > 0) && (!valid || valid[j]);
            const Vector scaled = ratio ? out[2 * i + j] * ratio[j] : out[2 * i + j];
            store(y + j * channels, kept ? finished(scaled, finish) : Vector{}, channels - k);
        }
    }
}

// The sum of a tile's four outputs, for a source of half the size: rows and columns are weighed by 1, 2, 0, -1.
PCONV_TARGET inline void put_low(
    const Conv3x3& conv, const Output3x3& output, const Place& place, int64_t first, const float* m, int64_t plane) {
    const int64_t width = conv.w / 2, at = place.y / 2 * width + place.x / 2;
    Vector rows[4] = {};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        if (i == 2) continue;
        const auto get = [=](int j) PCONV_TARGET { return *reinterpret_cast<const Vector*>(m + (4 * i + j) * plane); };
        const Vector middle = get(1);
        rows[i] = get(0) + (middle + middle) - get(3);
    }
    const bool kept = !output.low_valid || output.low_valid[place.n * output.low_valid_step + at];
    const Vector sum = rows[0] + (rows[1] + rows[1]) - rows[3];
    float* to = output.low + (place.n * (conv.h / 2) * width + at) * output.low_channels + first;
    store(to, kept ? sum : Vector{}, kLanes);
}

PCONV_TARGET inline void transform_output(
    const Conv3x3& conv, const Slice& slice, const Output3x3& output, const Tiles& tiles, int64_t first, int64_t count,
    const float* m) {
    const int64_t padded = round_up(slice.count, kLanes), plane = count * padded, end = slice.first + slice.count;
    for (int64_t t = 0; t < count; ++t) {
        const Place place(tiles, first + t);
        const int64_t rows = std::min<int64_t>(2, conv.h - place.y), columns = std::min<int64_t>(2, conv.w - place.x);
        for (int64_t k = slice.first; k < end; k += kLanes) {
            const float* from = m + t * padded + k - slice.first;
            if (k < output.low_channels) {
                if (output.low) put_low(conv, output, place, k, from, plane);
                continue;
            }
            if (!output.full) break;
            Vector half[8], out[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                Vector column[4];
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) column[i] = *reinterpret_cast<const Vector*>(from + (4 * i + j) * plane);
                output_transform(column, half + j, 4);
            }
            output_transform(half, out, 1);
            output_transform(half + 4, out + 2, 1);
            put_full(conv, output, place, rows, columns, k, out);
        }
    }
}

PCONV_TARGET inline void compute(
    const Conv3x3& conv, const Slice& slice, const Input3x3& input, const Output3x3& output, const Tiles& tiles,
    int64_t first, int64_t count, const float* zeros, const float* u, float* v, float* m) {
    const int64_t padded = round_up(conv.c, kLanes);
    transform_input(conv, input, tiles, first, count, zeros, padded, count * padded, v);
    multiply_all(conv, slice, input.low.channels, output.low_channels, count, v, u, m);
    transform_output(conv, slice, output, tiles, first, count, m);
}

#undef PCONV_TARGET
#undef PCONV_LANES
#undef PCONV_VECTORS
