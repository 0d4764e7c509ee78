// The launchers of the tensor-core kernels (fprop.cu, dgrad.cu, wgrad.cu).
#pragma once

#include "../plan/tiles.h"
#include "params.h"

namespace pconv::cuda {

Status gemm_fprop(MathId math, TileId tile, const GemmParams& p, cudaStream_t stream);

// transposed: filters [C, R, S, K] instead of [K, R, S, C].
Status gemm_dgrad(MathId math, TileId tile, bool transposed, const GemmParams& p, cudaStream_t stream);

// For quotients by multiplication (wgrad_loader.cuh).
struct Divisor {
    unsigned value, inverse;
};
inline Divisor divisor_of(int value) { return {unsigned(value), value > 0 ? 0xffffffffu / unsigned(value) : 0}; }

// dW as a product: rows are filters, columns are (tap, channel) pairs, the reduction runs over output pixels.
struct WgradParams {
    const void* scaled;  // [N, P, Q, k_padded]: ratio * gradient
    const void* x;       // [N, H, W, channels], packed
    Mask mask;           // over x
    Packing packing;
    float* partial;  // [splits, K, R * S, channels]
    Window window;
    int n, h, w, channels, k, k_padded, p, q;
    Divisor by_p, by_q;  // set by gemm_wgrad
    int splits;          // of the pixels; every split writes its own sums, reduce_wgrad adds them in order
};
Status gemm_wgrad(MathId math, TileId tile, const WgradParams& p, cudaStream_t stream);

}  // namespace pconv::cuda
