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

struct GemmParams {
    static constexpr int filter_tensors = 1;
    const void* source;  // [N, source_h, source_w, source_channels], packed
    const void*
        filters;       // [columns][R * S][filter_channels] (K-major), or [channels][R * S][filter_channels] (MN-major)
    Mask mask;     // fprop: over source; dgrad: over out
    Packing packing;   // fprop: of source's channels; dgrad: one block
    const void* bias;  // [columns] or nullptr
    float negative_slope = 1;  // fprop: of the activation, 1: none
    const float* ratio_in;     // [ratio_n, 1, P, Q]: nullptr where the kernel counts by itself
    float* ratio;              // [ratio_n, 1, P, Q], written; nullptr: not asked for
    uint8_t* new_mask;         // the same
    void* out;                 // [N, out_h, out_w, columns] or [N, columns, out_h, out_w]
    float* partial;            // [splits, N * out_h * out_w, columns] instead of out; nullptr: no splits
    bool out_nchw;

    int n, source_h, source_w, source_channels;
    int columns;          // output channels: K for fprop, C for dgrad
    int filter_channels;  // channels of a filter's tap as it lies in memory
    int filter_rows;      // K-major: columns; MN-major: the reduction's channels that exist
    int r, s, dil_h, dil_w, pad_h, pad_w, stride_h, stride_w;
    int out_h, out_w;
    int full;     // channels * R * S: what a window without holes counts
    int ratio_n;  // 1 or N

    // How tiles cover the rows: patches of patch_h x patch_w pixels, so that neighbours find each other's taps in the
    // L1 cache; patch_w == 0: runs of consecutive pixels, for grids smaller than a patch.
    int patch_h, patch_w;
    int taps_a_step;  // more than one where a tap has fewer channels than a K step
    int splits;       // of the K loop; every split writes its own partial sums
};

}  // namespace pconv::cuda
