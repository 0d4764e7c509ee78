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

// What the fast kernels hold: blocks of a mask, and R * S times those; beyond, the mask is applied while packing.
constexpr int max_blocks = 2;
constexpr int max_taps = 64;

// Packed channels: block b of the mask starts at channel start[b], every start and the total a multiple of 16 bytes.
// A mask that was applied while packing leaves one block.
struct Packing {
    int blocks = 1;
    int first[max_blocks + 1] = {0};  // in the tensor
    int start[max_blocks + 1] = {0};  // in the packed tensor; start[blocks] is its number of channels

    int channels() const { return start[blocks]; }
};

inline int64_t div_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return div_up(a, b) * b; }

// Channels first to last - 1 of a tensor in one block, or in two where the second begins between them.
inline Packing packing_of(DType dtype, int64_t first, int64_t second, int64_t last) {
    const int64_t chunk = 16 / bytes_of(dtype);
    Packing packing;
    packing.blocks = second > first && second < last ? 2 : 1;
    packing.first[0] = int(first), packing.first[packing.blocks] = int(last);
    if (packing.blocks == 2) packing.first[1] = int(second);
    for (int b = 0; b < packing.blocks; ++b)
        packing.start[b + 1] = int(packing.start[b] + round_up(packing.first[b + 1] - packing.first[b], chunk));
    return packing;
}

}  // namespace pconv::cuda
