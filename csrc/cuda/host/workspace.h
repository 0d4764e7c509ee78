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
