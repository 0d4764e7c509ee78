// The one workspace of an operator, handed out as buffers. Measured first, with a null base, then used with the same
// calls: the sizes cannot drift apart.
#pragma once

#include "run.h"

namespace pconv::cuda {

class Workspace {
  public:
    explicit Workspace(void* base) : base_(static_cast<uint8_t*>(base)) {}
    void* take(int64_t bytes) {
        if (bytes == 0) return nullptr;
        void* const place = base_ + used_;   // meaningless, and not used, while measuring
        used_ += (bytes + 255) / 256 * 256;  // what cudaMalloc grants, and enough for every vector access
        return place;
    }
    int64_t used() const { return used_; }

  private:
    uint8_t* base_;
    int64_t used_ = 0;
};

inline Strides dense(Layout layout, int64_t c, int64_t h, int64_t w) {
    if (layout == Layout::nchw) return {{c * h * w, h * w, w, 1}};
    return {{c * h * w, 1, w * c, c}};
}

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Do the filters begin at a multiple of 16 bytes and lie as [K, R, S, C]? Strides of dimensions of size 1 say nothing.
inline bool lies_as_krsc(const Layer& layer) {
    const Geometry& g = layer.geometry;
    const int64_t* const at = layer.weight_strides.at;
    return aligned(layer.weight) && (g.c == 1 || at[1] == 1) && (g.s == 1 || at[3] == g.c) &&
           (g.r == 1 || at[2] == g.s * g.c) && (g.k == 1 || at[0] == g.r * g.s * g.c);
}

// Adds a product of one source.
inline void add_product(const Plan& plan, int number, Kernels& kernels) {
    if (plan.special == Special::none) {
        kernels.tiles[number] = static_cast<signed char>(plan.tile);
        kernels.splits[number] = plan.splits;
    }
    kernels.families |= plan.special == Special::first  ? family::first_layer
                        : plan.special == Special::last ? family::last_layer
                        : is_tall(plan.tile)            ? family::tall
                        : is_wgmma(plan.tile)           ? family::wgmma
                                                        : family::gemm;
}

inline bool has_mask(const Layer& stage) { return stage.mask.bytes || stage.skip_mask.bytes; }

// The mask of a decoder stage's joined input, of which only the bytes are missing while the workspace is measured.
inline Mask joined_mask_of(const Layer& stage, const void* bytes) {
    if (!has_mask(stage)) return {};
    const Geometry& g = stage.geometry;
    return mask_of(static_cast<const uint8_t*>(bytes), stage.ratio_n, g.h * g.w, 2, stage.low_channels);
}

// The decoder stage's backward, which run_backward.cpp leaves to run_stage_backward.cpp.
Kernels stage_kernels_of(const Backward& call, const Device& device);
int64_t stage_backward_workspace(const Backward& call, const Device& device);
Status run_stage_backward(const Backward& call, const Device& device, void* memory, cudaStream_t stream);

}  // namespace pconv::cuda
