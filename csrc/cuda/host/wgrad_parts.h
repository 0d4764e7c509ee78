// wgrad's products of a whole batch, for run_backward.cpp and run_upcat_backward.cpp: batches whose offsets do not fit
// into 32 bits are launched in parts, and each part leaves its splits' sums behind the one before.
#pragma once

#include "../gemm/gemm.h"
#include "../plan/plan.h"

#include <algorithm>

namespace pconv::cuda {

inline int64_t wgrad_parts_of(const Geometry& g, const Plan& plan) {
    return (g.n + plan.images_a_launch - 1) / plan.images_a_launch;
}

inline Status wgrad_parts(
    const Geometry& g, const Plan& plan, const Mask& mask,
    const void* scaled,  // [N, P, Q, k_padded]
    const void* x,       // [N, H, W, start[blocks]]
    float* partial,      // [parts * splits][K][R * S][start[blocks]]
    cudaStream_t stream) {
    const int64_t element = bytes_of(g.dtype);
    WgradParams p{};
    p.mask = mask;
    p.packing = plan.packing;
    p.channels = plan.packing.channels();
    p.h = int(g.h), p.w = int(g.w), p.k = int(g.k), p.k_padded = int(plan.k_padded), p.p = int(g.p), p.q = int(g.q);
    p.r = int(g.r), p.s = int(g.s), p.dil_h = int(g.dil_h), p.dil_w = int(g.dil_w);
    p.pad_h = int(g.pad_h), p.pad_w = int(g.pad_w), p.stride_h = int(g.stride_h), p.stride_w = int(g.stride_w);
    p.splits = plan.splits;
    Status status;
    for (int64_t first = 0; status.ok() && first < g.n; first += plan.images_a_launch) {
        p.n = int(std::min(plan.images_a_launch, g.n - first));
        p.scaled = static_cast<const uint8_t*>(scaled) + first * g.p * g.q * plan.k_padded * element;
        p.x = static_cast<const uint8_t*>(x) + first * g.h * g.w * p.channels * element;
        if (mask.bytes) p.mask.bytes = mask.bytes + first * mask.batch_step;
        p.partial = partial;
        partial += int64_t(plan.splits) * g.k * g.r * g.s * p.channels;
        status = gemm_wgrad(plan.math, plan.tile, p, stream);
    }
    return status;
}

}  // namespace pconv::cuda
