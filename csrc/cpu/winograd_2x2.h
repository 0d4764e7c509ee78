// What the kernels of Winograd's F(2x2, 3x3) share (Lavin and Gray, arXiv 1509.09308): a 3x3 convolution of stride 1 and
// padding 1 in 16 products for 4 outputs, where a direct one has 36.
//
//   Y = A^T [ sum over c of (G g G^T) * (B^T d B) ] A      d 4x4 input pixels, Y 2x2 outputs, * by element
//
// The filters' gradient is the same read backwards: dg = G^T [ sum over tiles of (A dY A^T) * (B^T d B) ] G.
//
// A picture doubled by nearest neighbours has two equal rows in the middle of a tile's four, and two equal columns: of
// B^T = [1 0 -1 0; 0 1 1 0; 0 -1 1 0; 0 1 0 -1] the third row gives 0. 9 of the 16 points are left, and in the gradient
// by the small picture, the sum of a tile's four pixels, it is the same 9.
//
// All numbers in A and B are 0 and +-1, in G halves: the error is a direct convolution's or less. F(4x4, 3x3) has fewer
// products, but 3 to 5 times the error.
#pragma once

#include "instruction_set.h"
#include "winograd.h"

namespace pconv::cpu {

constexpr int kPoints = 16;  // of a tile: products for each pair of channels

// Whether a point is 0 for channels of a doubled picture.
constexpr bool vanishes(int point) { return point / 4 == 2 || point % 4 == 2; }

// Filters that are transformed and used together: the first and how many.
struct Slice {
    int64_t first, count;
};

// The tiles of a picture, row by row.
struct Tiles {
    int64_t rows, columns, count;  // count: of all pictures
    explicit Tiles(const Conv3x3& conv)
        : rows((conv.h + 1) / 2), columns((conv.w + 1) / 2), count(conv.n * rows * columns) {}
};

// Where a tile lies: its picture and its first output pixel.
struct Place {
    int64_t n, y, x;
    Place(const Tiles& tiles, int64_t tile)
        : n(tile / (tiles.rows * tiles.columns)),
          y(tile / tiles.columns % tiles.rows * 2),
          x(tile % tiles.columns * 2) {}
};

}  // namespace pconv::cpu
