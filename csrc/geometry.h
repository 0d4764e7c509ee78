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

// A mask, one byte a pixel, anything but 0 is valid. Each of its channels ("blocks") stands for channels of the input:
// one block for all of them, two for those before and from `second` on, or C blocks of one channel each.
struct Mask {
    const uint8_t* bytes = nullptr;  // [N|1, blocks, H, W]; nullptr: everything is valid
    int64_t plane = 0;               // bytes from one block to the next, H W
    int64_t batch_step = 0;          // bytes from one image to the next, 0 where all share one
    int blocks = 1;                  // 1, 2 or C
    int second = 0;                  // the first channel of the second of two blocks
};

inline Mask mask_of(const uint8_t* bytes, int64_t images, int64_t plane, int64_t blocks = 1, int64_t second = 0) {
    return {bytes, plane, images > 1 ? blocks * plane : 0, int(blocks), int(second)};
}

// The input channels that a block stands for: from the first to before the last.
inline int64_t first_of_block(const Mask& mask, int64_t block) { return mask.blocks > 2 ? block : block * mask.second; }
inline int64_t last_of_block(const Mask& mask, int64_t block, int64_t channels) {
    return block + 1 == mask.blocks ? channels : first_of_block(mask, block + 1);
}

inline bool is_per_channel(const Mask& mask, int64_t channels) { return mask.blocks == channels && channels > 1; }

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
