// The vector code of winograd_2x2.cpp, which includes this file once for each instruction set (vector_tiles.h).
#include "winograd_2x2_transforms.h"

// How many channels are added in one sum: fewer where there are few. A window that sees few valid pixels multiplies its
// error, and what its neighbours in the tile leave in it, by a large ratio.
inline int64_t channels_added(const Segments& in) { return std::clamp<int64_t>(in.channels / in.count / 4, 8, 32); }

// Whether filters [first, end) need a point, and whether zeros have to stand for it where they do not.
inline bool is_needed(const Segments& out, int64_t first, int64_t end, int point, bool& read) {
    bool needed = false;
    read = false;
    for (const Segment& each : out) {
        if (each.part.first >= end || each.part.first + each.part.channels <= first) continue;
        needed |= each.needs(point);
        read |= !each.doubled;
    }
    return needed;
}

// M [16, tiles, padded slice] = V U, for each of the 16 apart, without those that are 0 for the channels in question.
PCONV_TARGET inline void multiply_all(
    const Problem& problem, const Slice& slice, int64_t tiles, const float* v, const float* filters, float* m) {
    const int64_t part = channels_added(problem.in);
    const int64_t channels = problem.in.channels, c = round_up(channels, kLanes), k = round_up(slice.count, kLanes);
    for (int point = 0; point < kPoints; ++point, v += tiles * c, m += tiles * k, filters += channels * k) {
        const Run run = run_of(problem.in, point);
        for (int64_t block = 0; block < k; block += kBlock) {
            const int64_t width = std::min(kBlock, k - block), from = slice.first + block;
            bool read;
            const bool needed = is_needed(problem.out, from, from + width, point, read);
            if (!needed && !read) continue;
            for (int64_t t = 0; t < tiles; t += kTileRows)
                multiply_fitting(
                    std::min(kTileRows, tiles - t), width / kLanes, v + t * c + run.first,
                    filters + block * channels + run.first * width, needed ? run.count : 0, part, c, k,
                    m + t * k + block);
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

// A tile's outputs with their ratios, zeros where the mask has holes.
PCONV_TARGET inline void put_full(
    const Problem& problem, const Segment& segment, const Place& place, int64_t first, const Vector* out) {
    const int64_t k = first - segment.part.first, channels = segment.part.channels - k;
    const int64_t rows = std::min<int64_t>(2, segment.rows() - place.y);
    const int64_t columns = std::min<int64_t>(2, segment.columns() - place.x);
    const Finish finish{problem.bias ? load(problem.bias + first, channels) : Vector{}, problem.negative_slope};
    float* picture = segment.y + place.n * segment.height * segment.width * segment.pixel + k;
    const float* ratios = problem.ratio ? problem.ratio + place.n * problem.ratio_step : nullptr;
    const uint8_t* valid = segment.valid ? segment.valid + place.n * segment.valid_step : nullptr;
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
            const int64_t at = segment.at(place.y + i, place.x + j);
            const float ratio = ratios ? ratios[at] : 1;
            const bool kept = ratio > 0 && (!valid || valid[at]);
            store(picture + at * segment.pixel, kept ? finished(out[2 * i + j] * ratio, finish) : Vector{}, channels);
        }
    }
}

// The sum of a tile's four outputs, for a doubled picture: rows and columns are weighed by 1, 2, 0, -1.
PCONV_TARGET inline void put_low(
    const Segment& segment, const Place& place, int64_t first, const float* m, int64_t plane) {
    Vector rows[4] = {};
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        if (i == 2) continue;
        const auto* row = reinterpret_cast<const Vector*>(m + 4 * i * plane);
        const int64_t step = plane / kLanes;
        rows[i] = row[0] + (row[step] + row[step]) - row[3 * step];
    }
    const int64_t at = segment.at(place.y / 2, place.x / 2);
    const bool kept = !segment.valid || segment.valid[place.n * segment.valid_step + at];
    const Vector sum = rows[0] + (rows[1] + rows[1]) - rows[3];
    float* picture = segment.y + place.n * segment.height * segment.width * segment.pixel + first - segment.part.first;
    store(picture + at * segment.pixel, kept ? sum : Vector{}, kLanes);
}

PCONV_TARGET inline void transform_output(
    const Problem& problem, const Slice& slice, int64_t first, int64_t count, const float* m) {
    const int64_t padded = round_up(slice.count, kLanes), plane = count * padded, slice_end = slice.first + slice.count;
    for (int64_t t = 0; t < count; ++t) {
        const Place place(problem, first + t);
        for (const Segment& segment : problem.out) {
            const int64_t begin = std::max(slice.first, segment.part.first);
            const int64_t end = std::min(slice_end, segment.part.first + segment.part.channels);
            for (int64_t k = begin; segment.y && k < end; k += kLanes) {
                const float* from = m + t * padded + k - slice.first;
                if (segment.doubled) {
                    put_low(segment, place, k, from, plane);
                    continue;
                }
                Vector half[8], out[4];
#pragma GCC unroll 4
                for (int j = 0; j < 4; ++j) {
                    Vector column[4];
#pragma GCC unroll 4
                    for (int i = 0; i < 4; ++i)
                        column[i] = *reinterpret_cast<const Vector*>(from + (4 * i + j) * plane);
                    output_transform(column, half + j, 4);
                }
                output_transform(half, out, 1);
                output_transform(half + 4, out + 2, 1);
                put_full(problem, segment, place, k, out);
            }
        }
    }
}

PCONV_TARGET inline void compute(
    const Problem& problem, const Slice& slice, int64_t first, int64_t count, const float* zeros, const float* u,
    float* v, float* m) {
    const int64_t padded = round_up(problem.in.channels, kLanes);
    transform_input(problem, first, count, zeros, padded, count * padded, v);
    multiply_all(problem, slice, count, v, u, m);
    transform_output(problem, slice, first, count, m);
}

#undef PCONV_TARGET
#undef PCONV_LANES
#undef PCONV_VECTORS
