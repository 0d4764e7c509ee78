// Where things lie in a tile of 128-byte rows with the 128-byte swizzle, for cp.async, ldmatrix, TMA and wgmma alike.
#pragma once

#include "sm80.cuh"

namespace pconv::cuda {

// Byte offset of the 16-byte chunk (0 to 7) of a row: chunks of eight neighbouring rows fall into different banks.
PCONV_DEV uint32_t swizzle_128(int row, int chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

// wgmma's description of an operand in such a tile (1024-aligned), distances in bytes:
//   K-major, rows of 64 elements along K:         stride = from 8 rows to the next 8 (1024 where rows are packed),
//                                                 leading is not used; 16 along K is + 32 bytes
//   MN-major, rows of 64 elements along M or N:   stride = from 8 of K to the next 8 (1024), leading = from 64 of
//                                                 M or N to the next 64; 16 along K is 16 rows, + 2048 bytes
PCONV_DEV uint64_t wgmma_descriptor(uint32_t address, uint32_t leading, uint32_t stride) {
    constexpr uint64_t swizzled_by_128 = 1ull << 62;
    return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
           static_cast<uint64_t>(stride >> 4) << 32 | swizzled_by_128;
}

}  // namespace pconv::cuda
