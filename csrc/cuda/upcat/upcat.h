// The launchers of the decoder's stage (upcat_*.cu): what run_forward.cpp and run_stage_backward.cpp are made of.
#pragma once

#include "../gemm/params.h"
#include "../host/run.h"
#include "../plan/tiles.h"

namespace pconv::cuda {

// The weight's first low_channels channels in phases; upcat_phases.cuh has the sums.
Status upcat_phases(
    DType dtype, int64_t k, int64_t low_channels,
    int64_t padded,                                     // channels of a row: low_channels, or more with zeros
    const void* weight, const Strides& weight_strides,  // [K, C, 3, 3]
    void* phases,                                       // [4 K][2][2][padded]
    cudaStream_t stream);

// The doubled and concatenated input and its two masks, for what the fused kernels do not take (upcat_join.cu). What
// lies under holes is copied too.
Status upcat_join(
    const Layer& stage,
    void* joined,       // [N, C, H, W], dense in the geometry's layout
    void* joined_mask,  // [ratio_n, 2, H, W], or nullptr: no masks are wanted
    cudaStream_t stream);

// One of the two blocks of channels of the stage's input.
struct UpcatBlock {
    const void* source;   // [N, h, w, channels]: low on its small grid, skip
    Mask mask;            // [N|1, 1, h, w]
    const void* filters;  // [filters][taps][filter_channels], the block's channels from first_channel on
    int filter_channels, first_channel;
    int h, w, channels;
};

// The stage's forward as one product of a 3x3 window (upcat_gather.cuh). packing has two blocks.
struct UpcatParams : ProductParams {
    static constexpr int filter_tensors = 2;
    UpcatBlock blocks[2];  // low, skip
    bool direct;           // low's filters are the weight's own 9 taps, not [4][columns][2][2] in phases
};
Status gemm_upcat(MathId math, TileId tile, const UpcatParams& p, cudaStream_t stream);

// The last stage in a kernel of its own (upcat_last.cu): 1, 3 or 4 filters, a skip of as many channels, which is not
// packed but read as it lies, in the layout of the output; low and its filters in phases as gemm_upcat takes them.
struct UpcatLastSkip {
    const void* source;  // [N, K, H, W] or [N, H, W, K]
    const void* weight;  // at the first skip channel
    Strides weight_strides;
};
Status upcat_last(MathId math, const UpcatParams& stage, const UpcatLastSkip& skip, cudaStream_t stream);

// ---- the backward (upcat_gradient.cu)

// low's gradient as a 4x4 convolution of the scaled gradient, stride 2, padding 1: its filters, the very sums that
// upcat_phases rounds. Not for doubles.
Status upcat_gradient_filters(
    DType dtype, int64_t k, int64_t low_channels, int64_t k_padded,  // padding: zeros
    const void* weight, const Strides& weight_strides,               // [K, C, 3, 3]
    void* filters,                                                   // [Cu][4][4][k_padded]
    cudaStream_t stream);

// dw's low half out of that convolution's weight gradient.
Status upcat_gradient_fold(
    DType dtype, int64_t k, int64_t low_channels, int64_t k_padded,
    const float* sums,                    // [Cu][4][4][k_padded]
    void* dw, const Strides& dw_strides,  // [K, C, 3, 3]
    cudaStream_t stream);

// Where the joined input is materialised, its gradient taken apart, the four pixels over each small one added.
Status upcat_part(
    const Layer& stage,
    const void* joined,  // [N, C, H, W], dense in the geometry's layout
    void* dlow,          // [N, Cu, H / 2, W / 2] or nullptr
    void* dskip,         // [N, Cs, H, W] or nullptr
    cudaStream_t stream);

}  // namespace pconv::cuda
