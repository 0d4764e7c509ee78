// The matrix product of the kernels for few filters (last_layer.cu, upcat_last.cu): for a patch of up to 256 input
// pixels,
//
//   products[column][pixel] = sum over c of  source[pixel][c] * filters[column][c]
//
// where a column is a tap of a filter. Every input pixel goes through the tensor cores and through shared memory once;
// the caller shifts the products by their taps and adds them. Holes and the border are zeros by the predicate of
// the copy, and a pixel's Inf meets no structural zero that ends in an output: columns past the last are never added.
#pragma once

#include "../gemm/fragments.cuh"
#include "../gemm/params.h"
#include "../numeric.cuh"
#include "../plan/edge_layers.h"
#include "../ptx/swizzle.cuh"

#include <algorithm>

namespace pconv::cuda {

// Few columns: 64 rows a warp, so that a filter fragment serves four; many: half of that, because of the registers.
template <int Columns, int Warps>
struct LastTile {
    static constexpr int columns = Columns, threads = 32 * Warps;
    static constexpr int warp_rows = last_rows / Warps, down = warp_rows / 16, across = Columns / 8;
    static constexpr int stage_bytes = (last_rows + Columns) * 128;
    static_assert(Columns % 16 == 0, "filter fragments are read two groups of 8 at a time");
};
// Products in shared memory are [column][pixel]. The pitch is 4 past a multiple of 16: the four columns that a warp
// writes together then lie 8 banks apart, and pixels are read without conflict anyway.
constexpr int products_pitch = last_rows + 4;

struct LastParams {
    GemmParams conv;
    int tile_h, patch_w, patch_pixels;  // the tile's rows; the input pixels it needs, at most last_rows
    int tiles_down, tiles_across;
    int products;        // columns
    int chunks, stages;  // of 128 bytes of channels; 1 or 2
    int tables_at;       // bytes
};

struct Patch {
    int pixel[last_rows];      // y * W + x, 0 where it is not read
    uint8_t valid[last_rows];  // a bit a block of the mask
};

struct TileAt {
    int n, i0, j0;
};

PCONV_DEV TileAt locate_tile(const LastParams& p) {
    const int across = blockIdx.x % p.tiles_across, line = blockIdx.x / p.tiles_across;
    const int n = line / p.tiles_down;
    return {n, (line - n * p.tiles_down) * p.tile_h, across * last_tile_w};
}

// Returns whether the patch has any valid pixel; a barrier.
template <class Tile>
PCONV_DEV bool prepare_patch(const LastParams& p, const TileAt& at, Patch& patch) {
    const GemmParams& conv = p.conv;
    const uint8_t* const mask = conv.mask.bytes ? conv.mask.bytes + at.n * conv.mask.batch_step : nullptr;
    int any = 0;
    for (int row = threadIdx.x; row < last_rows; row += Tile::threads) {
        const int patch_y = row / p.patch_w, y = at.i0 - conv.window.pad_h + patch_y,
                  x = at.j0 - conv.window.pad_w + row - patch_y * p.patch_w;
        const bool inside =
            row < p.patch_pixels && unsigned(y) < unsigned(conv.source_h) && unsigned(x) < unsigned(conv.source_w);
        const int pixel = inside ? y * conv.source_w + x : 0;
        uint32_t valid = 0;
        for (int b = 0; b < conv.packing.blocks; ++b)
            valid |= uint32_t(inside && (!mask || __ldg(mask + b * conv.mask.plane + pixel) != 0)) << b;
        patch.pixel[row] = pixel;
        patch.valid[row] = uint8_t(valid);
        any |= int(valid);
    }
    return __syncthreads_or(any) != 0;
}

// One chunk of channels of the patch and of the filters into swizzled rows of 128 bytes. A thread has one 16-byte piece
// of every few rows. Pieces past the last channel are zeros as far as the product's last 32-byte step reads.
template <class Math, class Tile>
PCONV_DEV void load_chunk(const LastParams& p, const Patch& patch, int n, int chunk, uint32_t stage) {
    using T = typename Math::Storage;
    const GemmParams& conv = p.conv;
    const int piece = threadIdx.x % 8, channels = conv.source_channels;
    const int channel = (chunk * 8 + piece) * Math::chunk;
    const bool exists = channel < channels;
    if (!exists && (piece % 2 == 0 || channel - Math::chunk >= channels)) return;
    int block = 0;
    while (block < conv.packing.blocks - 1 && channel >= conv.packing.start[block + 1]) ++block;
    const T* const source = static_cast<const T*>(conv.source) + int64_t(n) * conv.source_h * conv.source_w * channels +
                            (exists ? channel : 0);
    const T* const filters = static_cast<const T*>(conv.filters) + (exists ? channel : 0);
#pragma unroll 4
    for (int row = threadIdx.x / 8; row < last_rows; row += Tile::threads / 8)
        cp_async_cg_16(
            stage + swizzle_128(row, piece), source + patch.pixel[row] * channels,
            exists && (patch.valid[row] >> block & 1));
    for (int row = threadIdx.x / 8; row < Tile::columns; row += Tile::threads / 8) {
        const bool wanted = exists && row < p.products;
        cp_async_ca_16(stage + swizzle_128(last_rows + row, piece), filters + (wanted ? row * channels : 0), wanted);
    }
}

template <class Math, class Tile>
PCONV_DEV void multiply_chunk(uint32_t stage, int steps, float (&sums)[Tile::down][Tile::across][4]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint32_t a_first = stage + swizzle_128(warp * Tile::warp_rows + lane % 16, lane / 16);
    const uint32_t b_first = stage + swizzle_128(last_rows + lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
        if (step >= steps) break;
        uint32_t a[Tile::down][4];
#pragma unroll
        for (int i = 0; i < Tile::down; ++i) {
            ldmatrix_x4(a[i], (a_first ^ (step << 5)) + i * 16 * 128);
            Math::round_operand(a[i]);
        }
#pragma unroll
        for (int j = 0; j < Tile::across / 2; ++j) {
            uint32_t b[4];
            ldmatrix_x4(b, (b_first ^ (step << 5)) + j * 16 * 128);
            Math::round_operand(b);
#pragma unroll
            for (int i = 0; i < Tile::down; ++i) {
                Math::multiply(sums[i][2 * j], a[i], &b[0]);
                Math::multiply(sums[i][2 * j + 1], a[i], &b[2]);
            }
        }
    }
}

template <class Tile>
PCONV_DEV void stage_products(const LastParams& p, const float (&sums)[Tile::down][Tile::across][4], float* products) {
    const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32 * Tile::warp_rows + lane / 4;
#pragma unroll
    for (int j = 0; j < Tile::across; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
            const int column = j * 8 + lane % 4 * 2 + e;
            if (column >= p.products) continue;
#pragma unroll
            for (int i = 0; i < Tile::down; ++i) {
                products[column * products_pitch + row0 + i * 16] = sums[i][j][e];
                products[column * products_pitch + row0 + i * 16 + 8] = sums[i][j][2 + e];
            }
        }
}

// The whole product of one tile into products; the caller's barrier makes it visible. `meanwhile` is done while the
// first copies are under way.
template <class Math, class Tile, class Meanwhile>
PCONV_DEV void make_products(
    const LastParams& p, const TileAt& at, const Patch& patch, int chunks, uint8_t* shared, float* products,
    const Meanwhile& meanwhile) {
    const uint32_t pipeline = smem_u32(shared);
    float sums[Tile::down][Tile::across][4] = {};
    if (chunks > 0) load_chunk<Math, Tile>(p, patch, at.n, 0, pipeline);
    cp_async_commit();
    meanwhile();
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const int reading = chunk % p.stages * Tile::stage_bytes;
        if (chunk + 1 < chunks)
            load_chunk<Math, Tile>(p, patch, at.n, chunk + 1, pipeline + (chunk + 1) % p.stages * Tile::stage_bytes);
        cp_async_commit();  // an empty group at the end, so that all but the newest is always this chunk
        cp_async_wait<1>();
        __syncthreads();
        const int pieces = (p.conv.source_channels - chunk * 8 * Math::chunk) / Math::chunk;
        multiply_chunk<Math, Tile>(pipeline + reading, (pieces + 1) / 2, sums);
        __syncthreads();  // this stage is refilled next, or holds the products
    }
    cp_async_wait<0>();
    stage_products<Tile>(p, sums, products);
}

// Sizes of a launch over a grid of out_h x out_w places with windows of r x s pixels.
template <class Math, class Tile>
LastParams last_params(const GemmParams& conv, int grid_h, int grid_w, int columns) {
    LastParams p{};
    p.conv = conv;
    p.patch_w = last_tile_w + conv.window.s - 1;
    const int most = last_rows / p.patch_w - (conv.window.r - 1), tiles_down = std::max(1, (grid_h + most - 1) / most);
    p.tile_h = (grid_h + tiles_down - 1) / tiles_down;  // tiles of one height instead of a ragged one
    p.tiles_down = p.tile_h > 0 ? (grid_h + p.tile_h - 1) / p.tile_h : 0;
    p.tiles_across = (grid_w + last_tile_w - 1) / last_tile_w;
    p.patch_pixels = (p.tile_h + conv.window.r - 1) * p.patch_w;
    p.products = columns;
    p.chunks = (conv.source_channels + 8 * Math::chunk - 1) / (8 * Math::chunk);
    p.stages = std::min(p.chunks, 2);
    const int products_bytes = p.products * products_pitch * int(sizeof(float));
    p.tables_at = std::max(p.stages * Tile::stage_bytes, products_bytes);
    return p;
}

}  // namespace pconv::cuda
