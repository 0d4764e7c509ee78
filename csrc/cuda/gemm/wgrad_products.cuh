// The weight gradient's product. Both operands lie as [pixel][channel] rows, the reduction (pixels) being the slow
// dimension, so half types are transposed by ldmatrix.trans on their way into the fragments; fp32, for which there is
// no such instruction, picks its elements one by one.
//
// A tile of `columns` channels is cut into panels of 128 bytes a pixel, each swizzled: chunk c of pixel row r lies at
// place c ^ swizzle(r). Halves: swizzle = r & 7, for ldmatrix reads 8 rows of one chunk. fp32: swizzle = (r & 3) << 1,
// for a fragment's lanes read 4 rows of two neighbouring chunks.
#pragma once

#include "../plan/tile_types.h"
#include "fragments.cuh"

namespace pconv::cuda {

template <class Math>
struct WgradStage {
    static constexpr int pixels = 8 * Math::chunk;  // of one K step
    static constexpr int panel_bytes = pixels * 128;
    PCONV_DEV static int swizzle(int pixel) { return Math::chunk == 8 ? pixel & 7 : (pixel & 3) << 1; }
};

template <class Math, class Tile>
struct WgradHalfProduct : WarpTile<Tile> {
    using WarpTile<Tile>::down, WarpTile<Tile>::across, WarpTile<Tile>::sums;
    using WarpTile<Tile>::lane, WarpTile<Tile>::warp_row, WarpTile<Tile>::warp_column;
    static constexpr int panel_bytes = WgradStage<Math>::panel_bytes;
    uint32_t pipeline;

    PCONV_DEV WgradHalfProduct(const uint8_t* shared, int thread)
        : WarpTile<Tile>(thread), pipeline(smem_u32(shared)) {}

    // Address of this lane's row in a transposed read of 16 pixels x 16 channels.
    PCONV_DEV static uint32_t address(uint32_t tile, int pixel, int channel_chunk) {
        return tile + channel_chunk / 8 * panel_bytes + pixel * 128 + (((channel_chunk & 7) ^ (pixel & 7)) << 4);
    }

    PCONV_DEV void step(int stage_offset) {
        const uint32_t left = pipeline + stage_offset, right = left + Tile::rows / 64 * panel_bytes;
#pragma unroll
        for (int depth = 0; depth < 4; ++depth) {  // 16 pixels each
            uint32_t a[down][4], b[across / 2][4];
            // Tiles of the left fragment come in the order (pixels 0-7: channels 0-7, 8-15), (pixels 8-15: ...), those
            // of the right one the other way round.
            const int a_pixel = depth * 16 + lane % 8 + lane / 16 * 8, b_pixel = depth * 16 + lane % 16;
#pragma unroll
            for (int i = 0; i < down; ++i)
                ldmatrix_x4_trans(a[i], address(left, a_pixel, warp_row / 8 + i * 2 + lane / 8 % 2));
#pragma unroll
            for (int j = 0; j < across / 2; ++j)
                ldmatrix_x4_trans(b[j], address(right, b_pixel, warp_column / 8 + j * 2 + lane / 16));
#pragma unroll
            for (int i = 0; i < down; ++i)
#pragma unroll
                for (int j = 0; j < across; ++j) Math::multiply(sums[i][j], a[i], &b[j / 2][j % 2 * 2]);
        }
    }
};

template <class Tile>
struct WgradTf32Product : WarpTile<Tile> {
    using WarpTile<Tile>::down, WarpTile<Tile>::across, WarpTile<Tile>::sums;
    using WarpTile<Tile>::lane, WarpTile<Tile>::warp_row, WarpTile<Tile>::warp_column;
    static constexpr int panel_bytes = WgradStage<Tf32>::panel_bytes;
    const uint8_t* pipeline;

    PCONV_DEV WgradTf32Product(const uint8_t* shared, int thread) : WarpTile<Tile>(thread), pipeline(shared) {}

    PCONV_DEV static uint32_t element(const uint8_t* tile, int pixel, int channel) {
        const int place = (channel % 32 / 4) ^ WgradStage<Tf32>::swizzle(pixel);
        const uint8_t* const row = tile + channel / 32 * panel_bytes + pixel * 128;
        return to_tf32(*reinterpret_cast<const float*>(row + place * 16 + channel % 4 * 4));
    }

    PCONV_DEV void step(int stage_offset) {
        const uint8_t *const left = pipeline + stage_offset, *const right = left + Tile::rows / 32 * panel_bytes;
        const int group = lane / 4, member = lane % 4;
#pragma unroll
        for (int depth = 0; depth < 4; ++depth) {  // 8 pixels each
            uint32_t a[down][4], b[across][2];
            const int pixel = depth * 8 + member;
#pragma unroll
            for (int i = 0; i < down; ++i)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    a[i][e] = element(left, pixel + e / 2 * 4, warp_row + i * 16 + group + e % 2 * 8);
#pragma unroll
            for (int j = 0; j < across; ++j)
#pragma unroll
                for (int e = 0; e < 2; ++e) b[j][e] = element(right, pixel + e * 4, warp_column + j * 8 + group);
#pragma unroll
            for (int i = 0; i < down; ++i)
#pragma unroll
                for (int j = 0; j < across; ++j) mma_tf32_1688(sums[i][j], a[i], b[j]);
        }
    }
};

// Plain fp32, an outer product a pixel: 8 filters (two runs of 4, 32 apart) times 4 channels a thread.
template <class Tile>
struct WgradFloatProduct {
    static_assert(Tile::rows == 64 && Tile::columns == 64 && Tile::threads == 128, "the thread layout is of this tile");
    static constexpr int panel_bytes = WgradStage<Ieee>::panel_bytes, group = 8;
    float sums[8][4] = {}, block[8][4] = {};  // a few products, then those of a block of steps, as in FloatProduct
    int steps = 0;
    const uint8_t* pipeline;
    int row, column;

    PCONV_DEV WgradFloatProduct(const uint8_t* shared, int thread)
        : pipeline(shared), row(thread / 16 * 4), column(thread % 16 * 4) {}

    PCONV_DEV static float4 read(const uint8_t* tile, int pixel, int channel) {
        const int place = (channel % 32 / 4) ^ WgradStage<Ieee>::swizzle(pixel);
        return *reinterpret_cast<const float4*>(tile + channel / 32 * panel_bytes + pixel * 128 + place * 16);
    }

    PCONV_DEV void step(int stage_offset) {
        const uint8_t *const left = pipeline + stage_offset, *const right = left + 2 * panel_bytes;
#pragma unroll 1
        for (int first = 0; first < WgradStage<Ieee>::pixels; first += group) {
            float part[8][4] = {};
#pragma unroll
            for (int pixel = first; pixel < first + group; ++pixel) {
                const float4 low = read(left, pixel, row), high = read(left, pixel, row + 32),
                             b = read(right, pixel, column);
                const float a[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
                for (int i = 0; i < 8; ++i) {
                    part[i][0] = fmaf(a[i], b.x, part[i][0]);
                    part[i][1] = fmaf(a[i], b.y, part[i][1]);
                    part[i][2] = fmaf(a[i], b.z, part[i][2]);
                    part[i][3] = fmaf(a[i], b.w, part[i][3]);
                }
            }
            add(block, part);
        }
        if (++steps % blocked_steps == 0) end_block();
    }

    PCONV_DEV void end_block() {
        add(sums, block);
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) block[i][j] = 0.f;
    }

    PCONV_DEV static void add(float (&to)[8][4], const float (&from)[8][4]) {
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j) to[i][j] += from[i][j];
    }

    PCONV_DEV void stage_out(float* staging) {
        end_block();
#pragma unroll
        for (int i = 0; i < 8; ++i)
            *reinterpret_cast<float4*>(staging + (row + i % 4 + i / 4 * 32) * Tile::staging_pitch + column) =
                float4{sums[i][0], sums[i][1], sums[i][2], sums[i][3]};
    }
};

template <class Math, class Tile>
struct WgradProduct {
    using Type = WgradHalfProduct<Math, Tile>;
};
template <class Tile>
struct WgradProduct<Tf32, Tile> {
    using Type = WgradTf32Product<Tile>;
};
template <class Tile>
struct WgradProduct<Ieee, Tile> {
    using Type = WgradFloatProduct<Tile>;
};

}  // namespace pconv::cuda
