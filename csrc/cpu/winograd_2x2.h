// Winograd's F(2x2, 3x3) (Lavin and Gray, arXiv 1509.09308): a 3x3 convolution of stride 1 in 16 products for 4
// outputs, where a direct one has 36.
//
//   Y = A^T [ sum over c of (G g G^T) * (B^T d B) ] A      d 4x4 input pixels, Y 2x2 outputs, * by element
//
// The filters' gradient is the same read backwards: dg = G^T [ sum over tiles of (A dY A^T) * (B^T d B) ] G. All
// numbers in A and B are 0 and +-1, in G halves: the error is a direct convolution's or less. F(4x4, 3x3) has fewer
// products, but 3 to 5 times the error.
//
// Other layers are the same with more channels, of which each lacks some of the 16 points:
//   - A picture doubled by nearest neighbours has two equal rows in the middle of a tile's four, and two equal columns.
//     B^T = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1] gives 0 in its third row: 9 points are left, in the gradient by the
//     small picture, the sum of a tile's four pixels, too.
//   - With stride 2 the pixels of each parity of row and column are a picture of their own, four of them in all. A tap
//     less at the end is the last point less, one less at the start the first: 49 products for the 100 of a 5x5 window,
//     25 for the 36 of a 3x3 one.
#pragma once

#include "instruction_set.h"
#include "winograd.h"

namespace pconv::cpu {

constexpr int kPoints = 16;  // of a tile: products for each pair of channels at most

// A picture that is read or written, or the pixels of one parity of it.
struct Segment {
    WeightPart part;
    const float* x = nullptr;
    float* y = nullptr;
    int64_t pixel = 0;  // floats from one pixel to the next
    const uint8_t* valid =
        nullptr;  // [n or 1, height, width] bytes: pixels in holes are zeros; nullptr: there are none
    int64_t valid_step = 0;
    int64_t height = 0, width = 0;  // of the whole picture
    int row = 0, column = 0, step = 1;
    bool doubled = false;

    int64_t rows() const { return (height - row + step - 1) / step; }
    int64_t columns() const { return (width - column + step - 1) / step; }
    // Of pixel (y, x) of the segment in its picture.
    int64_t at(int64_t y, int64_t x) const { return (y * step + row) * width + x * step + column; }
    bool needs(int point) const { return part.needs(point / 4, point % 4); }
};

struct Segments {
    Segment items[4];
    int count = 0;
    int64_t channels = 0;  // of all

    const Segment* begin() const { return items; }
    const Segment* end() const { return items + count; }
    void add(Segment segment) {
        segment.part.first = channels;
        channels += segment.part.channels;
        items[count++] = segment;
    }
};

struct Problem {
    Segments in, out;
    int64_t n, tile_rows, tile_columns;
    const float *bias = nullptr, *ratio = nullptr;  // ratio: [n or 1, P, Q]
    int64_t ratio_step = 0;
    float negative_slope = 1;  // of the activation, 1: none

    int64_t tiles() const { return n * tile_rows * tile_columns; }
};

// Where a tile lies: its picture and its first pixel.
struct Place {
    int64_t n, y, x;
    Place(const Problem& p, int64_t tile)
        : n(tile / (p.tile_rows * p.tile_columns)),
          y(tile / p.tile_columns % p.tile_rows * 2),
          x(tile % p.tile_columns * 2) {}
};

// Channels of the input that a point is computed from: all that need it, and what lies between them.
struct Run {
    int64_t first, count;
};
inline Run run_of(const Segments& segments, int point) {
    int64_t first = segments.channels, end = 0;
    for (const Segment& each : segments) {
        if (!each.needs(point)) continue;
        first = std::min(first, each.part.first), end = std::max(end, each.part.first + each.part.channels);
    }
    return {std::min(first, end), std::max<int64_t>(end - first, 0)};
}

// Filters that are transformed and used together: the first and how many.
struct Slice {
    int64_t first, count;
};

// A geometry's input as segments; adjoint: to be written.
Segments input_segments(const Geometry& geometry, const WinogradSources& sources, bool adjoint);

}  // namespace pconv::cpu
