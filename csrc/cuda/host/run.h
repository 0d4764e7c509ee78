// The CUDA side of the border: whole operators on device pointers, for the glue (csrc/torch/ops_cuda.cpp) and for the
// drivers without torch. Nothing here allocates, synchronises or prints; a Status names the kernel that could not be
// launched. Tensors are dense in the geometry's layout.
#pragma once

#include "../kernels.h"
#include "../plan/plan.h"

namespace pconv::cuda {

// What both passes take: one source, or two in a decoder stage, which is a 3x3 partial convolution (stride 1, padding
// 1) of [x, doubled by nearest neighbours | skip] without either tensor in between.
struct Layer {
    Geometry geometry;  // the convolution's, at full resolution; decoder stage: c counts both sources, h and w even
    bool tf32;          // whether fp32 may be rounded to tf32
    const void* x;      // [N, C, H, W]; decoder stage: [N, low_channels, H / 2, W / 2]
    Mask mask;          // over x; decoder stage: one block
    int64_t low_channels = 0;  // decoder stage: of x; 0: one source
    const void* skip;          // decoder stage: [N, C - low_channels, H, W]
    Mask skip_mask;            // decoder stage: over skip, one block
    const void* weight;        // [K, C / groups, R, S]
    Strides weight_strides;
    void* ratio;  // [ratio_n, ratio_groups, P, Q] fp32, fp64 for doubles: written by the forward, read by the backward
    int64_t ratio_n, ratio_groups;  // ratio_n: 1 where no mask has a batch, else N
};

struct Forward : Layer {
    const void* phases;         // decoder stage: [4 K][2][2][low_channels] of upcat_phases; nullptr: made here
    const void* bias;           // [K] or nullptr
    double negative_slope = 1;  // of the activation behind the epilogue, v < 0 ? negative_slope * v : v; 1: none
    uint8_t* new_mask;          // as ratio
    void* y;                    // [N, K, P, Q]
};

// Which families of fused kernels a call would run on, as bits; 0: none, the call is refused.
namespace family {
constexpr unsigned gemm = 1;          // the masked product on mma.sync, or without tensor cores
constexpr unsigned wgmma = 2;         // the same on wgmma
constexpr unsigned first_layer = 4;   // few input channels
constexpr unsigned last_layer = 8;    // few filters
constexpr unsigned stage = 16;        // the decoder stage's forward and its own part of the backward
constexpr unsigned stage_wgmma = 32;  // the forward on wgmma
constexpr unsigned last_stage = 64;   // the decoder's last stage
constexpr unsigned tall = 128;        // wgmma's tall tiles, of layers and of the stage's forward
}  // namespace family
constexpr int families = 8;

// The kernels that a call would run on. Tiles and splits: of its products, each at a place of its own; -1: no product.
struct Kernels {
    unsigned families = 0;
    Tiles tiles = any_tiles;
    std::array<int, 4> splits{};
};

Kernels kernels_of(const Forward& call, const Device& device);

int64_t forward_workspace(const Forward& call, const Device& device);  // bytes
Status run_forward(const Forward& call, const Device& device, void* workspace, cudaStream_t stream);

struct Backward : Layer {
    const void* grad;  // [N, K, P, Q]
    void* dx;          // as x, or nullptr
    void* dskip;       // as skip, or nullptr
    void* dw;          // as weight, or nullptr
    Strides dw_strides;
    void* db;  // [K] or nullptr
    // Made already (with db), as [N, P, Q, K padded to 16 bytes]: ratio * gradient. grad and ratio are then not read.
    bool is_scaled;
    const void* scaled;
};

Kernels kernels_of(const Backward& call, const Device& device);

int64_t backward_workspace(const Backward& call, const Device& device);  // bytes
Status run_backward(const Backward& call, const Device& device, void* workspace, cudaStream_t stream);

}  // namespace pconv::cuda
