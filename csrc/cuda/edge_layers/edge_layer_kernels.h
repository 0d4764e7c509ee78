// The launchers of the first- and last-layer kernels: few input channels, or few output channels.
#pragma once

#include "../gemm/params.h"
#include "../plan/tiles.h"

namespace pconv::cuda {

// fprop of at most 4 input channels. p.source and p.filters are the tensors as they lie: source [N, C, H, W] or
// [N, H, W, C] like p.out (p.out_nchw says which), filters [K, C, R, S] with any strides. At most `blocks` blocks a
// tile of filters are launched; each takes one tile of pixels after another.
Status first_layer(MathId math, const GemmParams& p, const Strides& filter_strides, int blocks, cudaStream_t stream);

// fprop of at most 8 filters over a packed source, as gemm_fprop takes it.
Status last_layer(MathId math, const GemmParams& p, cudaStream_t stream);

}  // namespace pconv::cuda
