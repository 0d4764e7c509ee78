// The tiles of the kernels for a network's first and last layer (first_layer.cu, last_layer.cu), and which problems
// they take. Plain C++, shared by the launchers and the plan.
#pragma once

#include "../../geometry.h"

namespace pconv::cuda {

// A block of the first layer's kernel makes 16 x 16 output pixels: a warp has two rows of them, and a row of 16 is just
// one fragment of the tensor cores.
constexpr int first_tile = 16;
constexpr int first_max_channels = 4, first_max_window = 8, first_max_stride = 2;

// A block of the last layer's kernel reads 256 input pixels, a patch 16 output pixels and a window wide.
constexpr int last_rows = 256, last_tile_w = 16;
constexpr int last_max_filters = 8, last_max_window = 5;
constexpr int last_narrow_columns = 32, last_wide_columns = 80;  // (filter, tap) pairs that an instance has room for

inline bool fits_first_layer(const Geometry& g, bool one_mask_at_most) {
    return one_mask_at_most && g.groups == 1 && g.c <= first_max_channels && g.r <= first_max_window &&
           g.s <= first_max_window && g.stride_h <= first_max_stride && g.stride_w <= first_max_stride &&
           g.dil_h == 1 && g.dil_w == 1;
}

// Dilation is irrelevant for 1x1; we still require 1.
inline bool fits_last_layer(const Geometry& g) {
    return g.groups == 1 && g.k <= last_max_filters && g.r <= last_max_window && g.s <= last_max_window &&
           g.stride_h == 1 && g.stride_w == 1 && g.dil_h == 1 && g.dil_w == 1 && g.k * g.r * g.s <= last_wide_columns;
}

// The decoder's last stage: as many filters as the skip, the picture, has channels.
inline bool fits_upcat_last(const Geometry& g, int64_t low_channels) {
    return g.c - low_channels == g.k && (g.k == 1 || g.k == 3 || g.k == 4);
}

}  // namespace pconv::cuda
