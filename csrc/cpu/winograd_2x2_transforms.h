// The transforms of winograd_2x2.h on vectors of channels, included once for each instruction set (winograd_vectors.h).
#include "winograd_vectors.h"

// One row or column of B^T d B.
PCONV_TARGET inline void input_transform(const Vector d[4], Vector* out, int step) {
    out[0] = d[0] - d[2];
    out[step] = d[1] + d[2];
    out[2 * step] = d[2] - d[1];
    out[3 * step] = d[1] - d[3];
}

// One row or column of A^T m A, and its transpose, of A g A^T.
PCONV_TARGET inline void output_transform(const Vector m[4], Vector* out, int step) {
    out[0] = m[0] + m[1] + m[2];
    out[step] = m[1] - m[2] - m[3];
}

PCONV_TARGET inline void gradient_transform(const Vector g[2], Vector* out, int step) {
    out[0] = g[0];
    out[step] = g[0] + g[1];
    out[2 * step] = g[0] - g[1];
    out[3 * step] = -g[1];
}

// A patch's pixels, those outside the picture and in holes zeros: 4x4, or 3x3 of a picture of half the size.
using Patch = const float* [16];

// One vector of channels of a patch into V's 16 planes. Whole: there are as many channels as a vector has.
template <bool Whole>
PCONV_TARGET inline void transform_full(
    const Patch& patch, int64_t channel, int64_t channels, float* out, int64_t plane) {
    const int64_t loaded = Whole ? kLanes : channels;
    Vector half[16];
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
        Vector d[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) d[i] = load(patch[4 * i + j] + channel, loaded);
        input_transform(d, half + j, 4);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        Vector v[4];
        input_transform(half + 4 * i, v, 1);
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) *reinterpret_cast<Vector*>(out + (4 * i + j) * plane) = v[j];
    }
}

// The same of a doubled picture, whose rows are a b b c: points 0, 1 and 3.
PCONV_TARGET inline void transform_low(const Patch& patch, int64_t channel, float* out, int64_t plane) {
    Vector half[9];
#pragma GCC unroll 3
    for (int j = 0; j < 3; ++j) {
        Vector d[3];
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) d[i] = load(patch[3 * i + j] + channel, kLanes);
        half[j] = d[0] - d[1], half[3 + j] = d[1] + d[1], half[6 + j] = d[1] - d[2];
    }
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i) {
        const Vector* d = half + 3 * i;
        float* to = out + (i == 2 ? 12 : 4 * i) * plane;
        *reinterpret_cast<Vector*>(to) = d[0] - d[1];
        *reinterpret_cast<Vector*>(to + plane) = d[1] + d[1];
        *reinterpret_cast<Vector*>(to + 3 * plane) = d[1] - d[2];
    }
}

// Of a segment, `side` rows and columns from (y, x) on.
PCONV_TARGET inline void find_patch(
    const Segment& segment, int64_t n, int64_t y, int64_t x, int side, const float* zeros, Patch& patch) {
    const uint8_t* valid = segment.valid ? segment.valid + n * segment.valid_step : nullptr;
    const float* picture = segment.x + n * segment.height * segment.width * segment.pixel;
    const int64_t rows = segment.rows(), columns = segment.columns();
    for (int i = 0; i < side; ++i) {
        for (int j = 0; j < side; ++j) {
            const int64_t row = y + i, column = x + j, at = segment.at(row, column);
            const bool seen = row >= 0 && row < rows && column >= 0 && column < columns && (!valid || valid[at]);
            patch[side * i + j] = seen ? picture + at * segment.pixel : zeros;
        }
    }
}

// V [16, tiles, C] of `count` tiles from `first` on, of all segments; of a doubled one the points that vanish are not
// written. tile_step, plane: floats from one tile, and from one of the 16, to the next. zeros: as many as a segment has
// channels.
PCONV_TARGET inline void transform_input(
    const Problem& problem, int64_t first, int64_t count, const float* zeros, int64_t tile_step, int64_t plane,
    float* out) {
    Patch patch;
    for (int64_t t = 0; t < count; ++t, out += tile_step) {
        const Place place(problem, first + t);
        for (const Segment& segment : problem.in) {
            const int64_t channels = segment.part.channels;
            float* to = out + segment.part.first;
            if (segment.doubled) {
                find_patch(segment, place.n, place.y / 2 - 1, place.x / 2 - 1, 3, zeros, patch);
                for (int64_t c = 0; c < channels; c += kLanes) transform_low(patch, c, to + c, plane);
                continue;
            }
            find_patch(segment, place.n, place.y - 1, place.x - 1, 4, zeros, patch);
            int64_t c = 0;
            for (; c + kLanes <= channels; c += kLanes) transform_full<true>(patch, c, kLanes, to + c, plane);
            if (c < channels) transform_full<false>(patch, c, channels - c, to + c, plane);
        }
    }
}
