// The decoder's stage on device pointers: a 3x3 partial convolution (stride 1, padding 1) of [low, doubled by nearest
// neighbours | skip], without either tensor in between. As run.h: nothing allocates, synchronises or prints.
#pragma once

#include "../kernels.h"
#include "../plan/plan.h"

namespace pconv::cuda {

// Both passes. The geometry is the convolution's at full resolution: c = Cu + Cs, h = p, w = q, both even.
struct Upcat {
    Geometry geometry;
    int64_t low_channels;  // Cu
    Mask low_mask;         // [N|1, 1, H / 2, W / 2], one block
    Mask skip_mask;        // [N|1, 1, H, W], one block
    bool tf32;             // may fp32 be rounded to tf32?
    const void* low;       // [N, Cu, H / 2, W / 2], dense in the geometry's layout
    const void* skip;      // [N, Cs, H, W], the same
    const void* weight;    // [K, Cu + Cs, 3, 3]
    Strides weight_strides;
    void* ratio;      // [ratio_n, 1, H, W] fp32, fp64 for doubles: written by the forward, read by the backward
    int64_t ratio_n;  // 1 where neither mask has a batch, else N
};

// The mask of the joined input, of which only the bytes are missing while the workspace is measured.
inline Mask joined_mask_of(const Upcat& stage, const void* bytes) {
    if (!stage.low_mask.bytes && !stage.skip_mask.bytes) return {};
    const Geometry& g = stage.geometry;
    return mask_of(static_cast<const uint8_t*>(bytes), stage.ratio_n, g.h * g.w, 2, stage.low_channels);
}

struct UpcatForward : Upcat {
    const void* phases;     // [4 K][2][2][Cu] of upcat_phases, or nullptr: the forward makes its own
    const void* bias;       // [K] or nullptr
    double negative_slope;  // of the activation, 1: none
    uint8_t* new_mask;      // as ratio
    void* y;                // [N, K, H, W], dense in the geometry's layout
};

int64_t upcat_forward_workspace(const UpcatForward& call, const Device& device);  // bytes
Status run_upcat_forward(const UpcatForward& call, const Device& device, void* workspace, cudaStream_t stream);

struct UpcatBackward : Upcat {
    const void* grad;  // [N, K, H, W], dense in the geometry's layout
    void* dlow;        // [N, Cu, H / 2, W / 2], dense in the geometry's layout, or nullptr
    void* dskip;       // [N, Cs, H, W], the same
    void* dw;          // [K, Cu + Cs, 3, 3] or nullptr
    Strides dw_strides;
    void* db;  // [K] or nullptr
};

int64_t upcat_backward_workspace(const UpcatBackward& call, const Device& device);  // bytes
Status run_upcat_backward(const UpcatBackward& call, const Device& device, void* workspace, cudaStream_t stream);

}  // namespace pconv::cuda
