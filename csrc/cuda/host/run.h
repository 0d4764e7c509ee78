// The CUDA side of the border: whole operators on device pointers, for the glue (csrc/torch/ops_cuda.cpp) and for the
// drivers without torch. Nothing here allocates, synchronises or prints; a Status names the kernel that could not be
// launched.
#pragma once

#include "../kernels.h"
#include "../plan/plan.h"

namespace pconv::cuda {

struct Forward {
    Geometry geometry;
    Mask mask;           // bytes on the device
    bool tf32;           // may fp32 be rounded to tf32?
    const void* x;       // [N, C, H, W], dense in the geometry's layout
    const void* weight;  // [K, C / groups, R, S]
    Strides weight_strides;
    const void* bias;   // [K] or nullptr
    void* ratio;        // [ratio_n, ratio_groups, P, Q] fp32, fp64 for doubles
    uint8_t* new_mask;  // the same
    int64_t ratio_n, ratio_groups;
    void* y;                    // [N, K, P, Q], dense in the geometry's layout
    double negative_slope = 1;  // of the activation behind the epilogue, v < 0 ? negative_slope * v : v; 1: none
};

int64_t forward_workspace(const Forward& call, const Device& device);  // bytes
Status run_forward(const Forward& call, const Device& device, void* workspace, cudaStream_t stream);

struct Backward {
    Geometry geometry;
    Mask mask;
    bool tf32;
    const void* grad;    // [N, K, P, Q], dense in the geometry's layout
    const void* x;       // [N, C, H, W], dense in the geometry's layout
    const void* weight;  // [K, C / groups, R, S]
    Strides weight_strides;
    const void* ratio;  // as the forward wrote it
    int64_t ratio_n, ratio_groups;
    void* dx;  // [N, C, H, W], dense in the geometry's layout, or nullptr
    void* dw;  // [K, C / groups, R, S] or nullptr
    Strides dw_strides;
    void* db;  // [K] or nullptr
    // Made already (with db), as [N, P, Q, K padded to 16 bytes]: ratio * gradient. grad and ratio are then not read.
    bool is_scaled;
    const void* scaled;
};

int64_t backward_workspace(const Backward& call, const Device& device);  // bytes
Status run_backward(const Backward& call, const Device& device, void* workspace, cudaStream_t stream);

}  // namespace pconv::cuda
