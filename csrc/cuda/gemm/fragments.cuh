// One K step (128 bytes a row) of a warp's product, out of swizzled shared memory into fp32 accumulators.
//
// Shared memory holds rows of 128 bytes in eight 16-byte chunks; chunk c of row r lies at place c ^ (r & 7), so that
// the eight rows which ldmatrix reads together lie in different banks. tf32 uses the same reads as the half types: a
// fragment is 32 bytes deep in either, 16 halves or 8 floats.
#pragma once

#include "../numeric.cuh"
#include "../plan/tile.h"
#include "../plan/tiles.h"

namespace pconv::cuda {

// 16 bytes as they are stored. Two halves of a word are rounded by one instruction.
template <class Round>
PCONV_DEV uint4 packed_pairs(const float (&values)[8], const Round& round) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const auto two = round(values[2 * i], values[2 * i + 1]);
        static_assert(sizeof two == 4, "two halves");
        words[i] = *reinterpret_cast<const uint32_t*>(&two);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

PCONV_DEV uint4 packed_floats(const float (&values)[4]) {
    return make_uint4(
        __float_as_uint(values[0]), __float_as_uint(values[1]), __float_as_uint(values[2]), __float_as_uint(values[3]));
}

struct Bf16 {
    using Storage = __nv_bfloat16;
    static constexpr int chunk = 8;  // elements in 16 bytes
    static constexpr bool tensor_cores = true;
    PCONV_DEV static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) {
        mma_bf16_16816(d, a, b);
    }
    PCONV_DEV static void round_operand(uint32_t (&)[4]) {}
    PCONV_DEV static Storage store(float value) { return __float2bfloat16(value); }
    PCONV_DEV static uint4 packed(const float (&values)[8]) {
        return packed_pairs(values, [](float low, float high) { return __floats2bfloat162_rn(low, high); });
    }
    PCONV_DEV static float load(Storage value) { return __bfloat162float(value); }
};

struct Half {
    using Storage = __half;
    static constexpr int chunk = 8;
    static constexpr bool tensor_cores = true;
    PCONV_DEV static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) { mma_f16_16816(d, a, b); }
    PCONV_DEV static void round_operand(uint32_t (&)[4]) {}
    PCONV_DEV static Storage store(float value) { return __float2half(value); }
    PCONV_DEV static uint4 packed(const float (&values)[8]) {
        return packed_pairs(values, [](float low, float high) { return __floats2half2_rn(low, high); });
    }
    PCONV_DEV static float load(Storage value) { return __half2float(value); }
};

struct Tf32 {
    using Storage = float;
    static constexpr int chunk = 4;
    static constexpr bool tensor_cores = true;
    PCONV_DEV static void multiply(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b) { mma_tf32_1688(d, a, b); }
    // The instruction would cut the low bits off; rounding them halves the error.
    PCONV_DEV static void round_operand(uint32_t (&fragment)[4]) {
#pragma unroll
        for (int i = 0; i < 4; ++i) fragment[i] = to_tf32(__uint_as_float(fragment[i]));
    }
    PCONV_DEV static Storage store(float value) { return value; }
    PCONV_DEV static uint4 packed(const float (&values)[4]) { return packed_floats(values); }
    PCONV_DEV static float load(Storage value) { return value; }
};

// fp32 as it is, without tensor cores.
struct Ieee {
    using Storage = float;
    static constexpr int chunk = 4;
    static constexpr bool tensor_cores = false;
    PCONV_DEV static Storage store(float value) { return value; }
    PCONV_DEV static uint4 packed(const float (&values)[4]) { return packed_floats(values); }
    PCONV_DEV static float load(Storage value) { return value; }
};

// body(Type<Math>{}) for what tensor cores multiply.
template <class Body>
Status by_math(MathId math, const char* name, const Body& body) {
    switch (math) {
        case MathId::bf16: return body(Type<Bf16>{});
        case MathId::f16: return body(Type<Half>{});
        case MathId::tf32: return body(Type<Tf32>{});
        case MathId::ieee: break;
    }
    return {cudaErrorInvalidValue, name};
}

template <class Body>
Status by_half_math(MathId math, const char* name, const Body& body) {
    if (math == MathId::bf16) return body(Type<Bf16>{});
    if (math == MathId::f16) return body(Type<Half>{});
    return {cudaErrorInvalidValue, name};
}

enum class Filters { k_major, mn_major };

// A warp's accumulators of mma.sync, [warp_rows / 16][warp_columns / 8][4], and its place in the tile.
template <class Tile>
struct WarpTile {
    static constexpr int down = Tile::warp_rows / 16, across = Tile::warp_columns / 8;
    float sums[down][across][4] = {};
    const int lane, warp_row, warp_column;

    PCONV_DEV WarpTile(int thread)
        : lane(thread % 32),
          warp_row(thread / 32 % Tile::warps_down * Tile::warp_rows),
          warp_column(thread / 32 / Tile::warps_down * Tile::warp_columns) {}

    // As rows of fp32 in shared memory, for the epilogue.
    PCONV_DEV void stage_out(float* staging) const {
#pragma unroll
        for (int i = 0; i < down; ++i)
#pragma unroll
            for (int j = 0; j < across; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int row = warp_row + i * 16 + half * 8 + lane / 4;
                    const int column = warp_column + j * 8 + lane % 4 * 2;
                    *reinterpret_cast<float2*>(staging + row * Tile::staging_pitch + column) =
                        make_float2(sums[i][j][half * 2], sums[i][j][half * 2 + 1]);
                }
    }
};

template <class Math, class Tile, Filters filters>
struct TensorCoreProduct : WarpTile<Tile> {
    using WarpTile<Tile>::down, WarpTile<Tile>::across, WarpTile<Tile>::sums;
    using WarpTile<Tile>::lane, WarpTile<Tile>::warp_row, WarpTile<Tile>::warp_column;
    uint32_t pipeline, a_first, b_first;  // where the stages begin; byte offsets in a stage

    PCONV_DEV TensorCoreProduct(const uint8_t* shared, int thread)
        : WarpTile<Tile>(thread), pipeline(smem_u32(shared)) {
        a_first = (warp_row + lane % 16) * 128 + (((lane / 16) ^ (lane & 7)) << 4);
        if (filters == Filters::k_major) {
            // Two 8-column groups a read, each in two halves of the fragment's depth; a single group needs one read of
            // two.
            const int column = warp_column + lane % 8 + (across > 1 ? lane / 16 * 8 : 0);
            b_first = Tile::rows * 128 + column * 128 + (((lane / 8 % 2) ^ (lane & 7)) << 4);
        } else {
            b_first = Tile::rows * 128 + (warp_column / 64) * (64 * 128) + lane % 16 * 128;
        }
    }

    PCONV_DEV void step(int stage_offset) {
        const uint32_t stage = pipeline + stage_offset;
#pragma unroll
        for (int depth = 0; depth < 4; ++depth) {  // 32 bytes each; the swizzle turns the offset into an xor
            uint32_t a[down][4], b[(across + 1) / 2][4];
#pragma unroll
            for (int i = 0; i < down; ++i) {
                ldmatrix_x4(a[i], ((stage + a_first) ^ (depth << 5)) + i * 16 * 128);
                Math::round_operand(a[i]);
            }
#pragma unroll
            for (int j = 0; j < (across + 1) / 2; ++j) {
                if (filters == Filters::mn_major) {
                    const int chunk = warp_column % 64 / 8 + j * 2 + lane / 16;
                    ldmatrix_x4_trans(b[j], stage + b_first + depth * 16 * 128 + ((chunk ^ (lane & 7)) << 4));
                } else if (across > 1) {
                    ldmatrix_x4(b[j], ((stage + b_first) ^ (depth << 5)) + j * 16 * 128);
                } else {
                    uint32_t two[2];
                    ldmatrix_x2(two, (stage + b_first) ^ (depth << 5));
                    b[j][0] = two[0], b[j][1] = two[1], b[j][2] = b[j][3] = 0;
                }
                Math::round_operand(b[j]);
            }
#pragma unroll
            for (int i = 0; i < down; ++i)
#pragma unroll
                for (int j = 0; j < across; ++j) Math::multiply(sums[i][j], a[i], &b[j / 2][j % 2 * 2]);
        }
    }
};

constexpr int blocked_steps = 8;  // of 32 products each

// Plain fp32: a thread has 8 x 4 sums of a 64 x 64 tile, rows 8 apart and columns 16 apart, so that the eight lanes
// that read together meet eight different swizzles.
template <class Tile>
struct FloatProduct {
    static constexpr int down = 8, across = 4;
    static_assert(Tile::rows == 64 && Tile::columns == 64 && Tile::threads == 128, "the thread layout is of this tile");
    // Four products, then the sum of a block of steps, then the long sum: an addition more now and then, a fraction of
    // the rounding error. (cuDNN's sums are blocked too; one long sum was up to four times as far off, on an H100.)
    float sums[down][across] = {}, parts[down][across] = {};
    int steps = 0;
    const uint8_t* const pipeline;
    const int row, column;

    PCONV_DEV FloatProduct(const uint8_t* shared, int thread)
        : pipeline(shared), row(thread / 16), column(thread % 16) {}

    PCONV_DEV static float4 read(const uint8_t* tile, int row, int chunk) {
        return *reinterpret_cast<const float4*>(tile + row * 128 + ((chunk ^ (row & 7)) << 4));
    }

    PCONV_DEV void step(int stage_offset) {
        const uint8_t* const stage = pipeline + stage_offset;
#pragma unroll
        for (int chunk = 0; chunk < 8; ++chunk) {
            float4 a[down], b[across];
#pragma unroll
            for (int i = 0; i < down; ++i) a[i] = read(stage, row + i * 8, chunk);
#pragma unroll
            for (int j = 0; j < across; ++j) b[j] = read(stage + Tile::rows * 128, column + j * 16, chunk);
#pragma unroll
            for (int i = 0; i < down; ++i)
#pragma unroll
                for (int j = 0; j < across; ++j) {
                    float part = a[i].x * b[j].x;
                    part = fmaf(a[i].y, b[j].y, part);
                    part = fmaf(a[i].z, b[j].z, part);
                    parts[i][j] += fmaf(a[i].w, b[j].w, part);
                }
        }
        if (++steps % blocked_steps == 0) end_block();
    }

    PCONV_DEV void end_block() {
#pragma unroll
        for (int i = 0; i < down; ++i)
#pragma unroll
            for (int j = 0; j < across; ++j) sums[i][j] += parts[i][j], parts[i][j] = 0.f;
    }

    PCONV_DEV void stage_out(float* staging) {
        end_block();
#pragma unroll
        for (int i = 0; i < down; ++i)
#pragma unroll
            for (int j = 0; j < across; ++j)
                staging[(row + i * 8) * Tile::staging_pitch + column + j * 16] = sums[i][j];
    }
};

template <class Math, class Tile, Filters filters, bool tensor_cores = Math::tensor_cores>
struct ProductOf {
    using Type = TensorCoreProduct<Math, Tile, filters>;
};
template <class Math, class Tile, Filters filters>
struct ProductOf<Math, Tile, filters, false> {
    using Type = FloatProduct<Tile>;
};

}  // namespace pconv::cuda
