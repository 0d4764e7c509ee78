// Plain data that the plan, the launchers and the kernels share. No CUDA header is needed here.
#pragma once

#include "../geometry.h"

namespace pconv::cuda {

inline int64_t bytes_of(DType dtype) {
    switch (dtype) {
        case DType::f64: return 8;
        case DType::f32: return 4;
        case DType::u8: return 1;
        default: return 2;
    }
}

// Where element (i0, i1, i2, i3) of a 4-dimensional tensor lies, in elements.
struct Strides {
    int64_t at[4];
};

// A mask on the device: one byte a pixel, anything but 0 is valid. Its channels are blocks of the input's channels.
constexpr int max_blocks = 4;
constexpr int max_taps =
    64;  // of the fast kernels: R * S times the mask's blocks; beyond, the mask is applied while packing
struct MaskView {
    const uint8_t* bytes = nullptr;   // [N|1, blocks, H, W]; nullptr: everything is valid
    int64_t batch_step = 0;           // bytes from one image to the next, 0 where all share one
    int64_t plane = 0;                // bytes from one block to the next
    int blocks = 1;                   // at most max_blocks, or C where each channel has its own
    bool per_channel = false;         // blocks == C; first is then not filled in
    int first[max_blocks + 1] = {0};  // the first input channel of each block, and C at the end
};

// Packed channels: block b of the mask starts at channel start[b], every start and the total a multiple of 16 bytes.
// Without blocks (one block, or a mask that was applied while packing) there is one start, 0.
struct Packing {
    int blocks = 1;
    int first[max_blocks + 1] = {0};  // in the tensor
    int start[max_blocks + 1] = {0};  // in the packed tensor; start[blocks] is its number of channels
};

}  // namespace pconv::cuda
