// Cuts the one workspace of an operator into buffers. Measured first, with a null base, then used with the same calls:
// the sizes cannot drift apart.
#pragma once

#include "run.h"

namespace pconv::cuda {

class Arena {
  public:
    explicit Arena(void* base) : base_(static_cast<uint8_t*>(base)) {}
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

inline MaskShape shape_of(const Mask& mask) { return {mask.bytes != nullptr, mask.blocks, mask.first}; }

// More uneven blocks than a kernel's parameters hold: they are spread to one mask a channel.
inline bool needs_spreading(const Geometry& g, const Mask& mask) {
    return mask.bytes && mask.blocks > max_blocks && mask.blocks != g.c;
}

inline MaskView view_of(const Geometry& g, const Mask& mask) {
    MaskView view;
    if (!mask.bytes) {
        view.first[1] = int(g.c);
        return view;
    }
    view.bytes = mask.bytes;
    view.plane = mask.plane;
    view.blocks = int(mask.blocks);
    view.per_channel = mask.blocks == g.c && g.c > 1;
    view.batch_step = mask.n > 1 ? mask.blocks * mask.plane : 0;
    if (!view.per_channel && mask.blocks <= max_blocks)
        for (int b = 0; b <= view.blocks; ++b) view.first[b] = int(mask.first[b]);
    return view;
}

// The mask as kernels take it, spread into `spread` if it has to be.
inline Status prepare_mask(const Geometry& g, const Mask& mask, void* spread, MaskView& view, cudaStream_t stream) {
    view = view_of(g, mask);
    if (!needs_spreading(g, mask)) return {};
    auto* const bytes = static_cast<uint8_t*>(spread);
    for (int64_t b = 0; b < mask.blocks; ++b) {
        const Status status = spread_block(
            mask.bytes + b * mask.plane, view.batch_step, mask.n, mask.plane, mask.first[b], mask.first[b + 1], g.c,
            bytes, stream);
        if (!status.ok()) return status;
    }
    view.bytes = bytes;
    view.blocks = int(g.c);
    view.per_channel = true;
    view.batch_step = mask.n > 1 ? g.c * mask.plane : 0;
    return {};
}

inline Strides dense(Layout layout, int64_t c, int64_t h, int64_t w) {
    if (layout == Layout::nchw) return {{c * h * w, h * w, w, 1}};
    return {{c * h * w, 1, w * c, c}};
}

inline bool aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Do the filters lie as [K, R, S, C]? Strides of dimensions of size 1 say nothing.
inline bool lies_as_krsc(const Geometry& g, const Strides& strides) {
    return (g.c == 1 || strides.at[1] == 1) && (g.s == 1 || strides.at[3] == g.c) &&
           (g.r == 1 || strides.at[2] == g.s * g.c) && (g.k == 1 || strides.at[0] == g.r * g.s * g.c);
}

}  // namespace pconv::cuda
