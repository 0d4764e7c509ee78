// Which item a thread takes, where an element lies, and whether its mask lets it through.
// All in 64 bits: these serve tensors of any size, and the divisions stand beside memory accesses that cost more.
#pragma once

#include "kernels.h"
#include "ptx/sm80.cuh"

#include <cstdint>

namespace pconv::cuda {

constexpr int warp_threads = 32;

// Blocks loop over what is left, so the grid may be shorter than the work. Emulated grids are so short that the
// smallest shapes already loop: else no test would reach the second round.
#ifdef PCONV_EMULATE
constexpr int64_t most_blocks = 3;
#else
constexpr int64_t most_blocks = 1 << 16;
#endif

__host__ __device__ constexpr int64_t ceil_div(int64_t value, int64_t divisor) {
    return (value + divisor - 1) / divisor;
}

inline dim3 grid_for(int64_t items, int64_t items_per_block = 1) {
    const int64_t blocks = ceil_div(items, items_per_block);
    return dim3(unsigned(blocks < most_blocks ? blocks : most_blocks));
}

PCONV_DEV int64_t first_item() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
PCONV_DEV int64_t item_step() { return int64_t(gridDim.x) * blockDim.x; }

struct Position {
    int64_t n, c, h, w;
};

// Item -> element of an [N, channels, height, width] tensor, in the order of its memory: neighbouring threads then
// write neighbouring elements.
PCONV_DEV Position unravel(int64_t item, bool channels_last, int64_t channels, int64_t height, int64_t width) {
    Position at;
    if (channels_last) {
        at.c = item % channels;
        item /= channels;
    }
    at.w = item % width;
    item /= width;
    at.h = item % height;
    item /= height;
    if (!channels_last) {
        at.c = item % channels;
        item /= channels;
    }
    at.n = item;
    return at;
}

PCONV_DEV int64_t offset_of(const Strides& strides, const Position& at) {
    return at.n * strides.at[0] + at.c * strides.at[1] + at.h * strides.at[2] + at.w * strides.at[3];
}

inline bool is_channels_last(const Strides& strides) { return strides.at[1] == 1; }

PCONV_DEV int64_t block_of(const Mask& mask, int64_t channel) {
    if (mask.blocks > 2) return channel;
    return mask.blocks == 2 && channel >= mask.second;
}

// pixel = h * W + w.
PCONV_DEV bool is_valid(const Mask& mask, int64_t n, int64_t channel, int64_t pixel) {
    if (mask.bytes == nullptr) return true;
    return mask.bytes[n * mask.batch_step + block_of(mask, channel) * mask.plane + pixel] != 0;
}

// No index into Packing that is known at run time alone: it would put a kernel's parameters into local memory.
PCONV_DEV int64_t packed_channels(const Packing& packing) {
    return packing.blocks == 2 ? packing.start[2] : packing.start[1];
}

// The tensor's channel at this place of the packed form, -1 in the padding.
PCONV_DEV int64_t source_channel(const Packing& packing, int64_t packed) {
    const bool second = packing.blocks == 2 && packed >= packing.start[1];
    const int64_t last = second ? packing.first[2] : packing.first[1];
    const int64_t channel = packed + (second ? packing.first[1] - packing.start[1] : packing.first[0]);
    return channel < last ? channel : -1;
}

// The pixels of a tensor under one running number. Rows that follow one another without a gap are one long row: that
// saves the division that tells them apart.
struct Pixels {
    int64_t count, plane, width;
    Strides strides;
};

inline Pixels pixels_of(int64_t n, int64_t height, int64_t width, const Strides& strides) {
    const bool joined = strides.at[2] == width * strides.at[3];
    return {n * height * width, height * width, joined ? height * width : width, strides};
}

struct PixelAt {
    int64_t n, pixel, offset;  // pixel = h * W + w, offset = that of its channel 0
};

PCONV_DEV PixelAt locate(const Pixels& pixels, int64_t number) {
    PixelAt at;
    at.n = number / pixels.plane;
    at.pixel = number - at.n * pixels.plane;
    const int64_t row = pixels.width == pixels.plane ? 0 : at.pixel / pixels.width;
    const int64_t column = at.pixel - row * pixels.width;
    at.offset = at.n * pixels.strides.at[0] + row * pixels.strides.at[2] + column * pixels.strides.at[3];
    return at;
}

}  // namespace pconv::cuda
