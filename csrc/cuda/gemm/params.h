// What one launch of the implicit matrix product needs. fprop and dgrad are the same product with different taps:
//
//   out[row][column] = sum over taps t and channels c of  source[pixel(row, t)][c] * filters[column][t][c]
//   pixel(row, t)    = (i * step_h + tap_y(t), j * step_w + tap_x(t))   for the row's grid place (i, j)
//
// fprop: rows are output pixels, step = stride,  tap_y = r * dil - pad.
// dgrad: rows are the input pixels of one parity class (a, b) = (y mod stride_h, x mod stride_w), step = 1, and the
// taps
//        are those with (a + pad - r * dil) divisible by the stride, tap_y = (a + pad - r * dil) / stride.
#pragma once

#include "../kernels.h"

namespace pconv::cuda {

// The epilogue and its output.
struct Output {
    const void* bias;          // [columns] or nullptr
    float negative_slope = 1;  // forward: of the activation, 1: none
    const float* ratio_in;     // [ratio_n, 1, h, w]: nullptr where the kernel counts by itself
    float* ratio;              // [ratio_n, 1, h, w], written; nullptr: not asked for
    uint8_t* new_mask;         // the same
    void* out;                 // [n, h, w, columns] or [n, columns, h, w]
    float* partial;            // [splits, n * h * w, columns] instead of out; nullptr: no splits
    bool nchw;
    int n, h, w, columns;  // columns: output channels, K for forward passes, C for dgrad
    int ratio_n;           // 1 or n
    int full;              // what a window without holes counts
    int second_block;      // dgrad: the first column of the mask's second block, columns where there is none
};

// How tiles cover the product.
struct Tiling {
    // Patches of pixels, so that neighbours find each other's taps in the L1 cache; patch_w == 0: runs of consecutive
    // pixels, for grids smaller than a patch.
    int patch_h, patch_w;
    int taps_per_step = 1;  // more than one where a tap has fewer channels than a K step
    int splits = 1;         // of the K loop; every split writes its own partial sums
};

struct Window {
    int r, s, dil_h, dil_w, pad_h, pad_w, stride_h, stride_w;
};

inline Window window_of(const Geometry& g) {
    return {int(g.r),     int(g.s),     int(g.dil_h),    int(g.dil_w),
            int(g.pad_h), int(g.pad_w), int(g.stride_h), int(g.stride_w)};
}

// What all products have.
struct ProductParams {
    Output output;
    Tiling tiling;
    Packing packing;  // of the channels that are summed over
};

struct GemmParams : ProductParams {
    static constexpr int filter_tensors = 1;
    const void* source;  // [n, source_h, source_w, source_channels], packed
    const void*
        filters;  // [columns][R * S][filter_channels] (K-major) or [channels][R * S][filter_channels] (MN-major)
    Mask mask;    // fprop: over source; dgrad: over out
    Window window;
    int source_h, source_w, source_channels;
    int filter_channels;  // channels of a filter's tap as it lies in memory
    int filter_rows;      // K-major: columns; MN-major: the reduction's channels that exist
};

}  // namespace pconv::cuda
