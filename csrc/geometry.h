// The problem as plain data, shared by the CPU kernels, the CUDA kernels and the emulation.
//
// Letters: N batch, C input channels, H W input size; K output channels, R S window; P Q output size.
// No torch and no CUDA header may be needed here.
#pragma once

#include <cstdint>

namespace pconv {

enum class Layout { nchw, nhwc };
enum class DType { f64, f32, bf16, f16, u8 };  // u8 serves bool too

// One partial convolution. Sizes are host integers; kernels narrow them where they have checked that they may.
struct Geometry {
    int64_t n, c, h, w;  // input   [N, C, H, W]
    int64_t k, r, s;     // weight  [K, C / groups, R, S]
    int64_t p, q;        // output  [N, K, P, Q]
    int64_t stride_h, stride_w;
    int64_t pad_h, pad_w;
    int64_t dil_h, dil_w;
    int64_t groups;
    Layout layout;  // of input, output and their gradients
    DType dtype;    // of everything but masks and ratios
};

// A mask, one byte a pixel, anything but 0 is valid. Its channels are blocks of the input's channels:
// one block for an ordinary mask, C for a true per-channel one, two for [upsampled | skip].
struct Mask {
    const uint8_t* bytes;  // [n, blocks, plane], nullptr: everything is valid
    int64_t n;             // 1 or N
    int64_t blocks;
    const int64_t* first;  // [blocks + 1] the first input channel of each block, and C at the end
    int64_t plane;         // bytes from one block to the next, H W
};

// sum(1) / sum(mask) for every window, 0 where the sum is 0. In fp32, in fp64 for doubles.
struct Ratio {
    void* values;    // [n, groups, P, Q]
    int64_t n;       // 1 or N
    int64_t groups;  // 1, or the convolution's groups where its mask has a channel for each input channel
};

inline int64_t output_size(int64_t size, int64_t window, int64_t stride, int64_t pad, int64_t dilation) {
    const int64_t room = size + 2 * pad - dilation * (window - 1) - 1;
    return room < 0 ? 0 : room / stride + 1;
}

}  // namespace pconv
