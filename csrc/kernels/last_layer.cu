// The last layer: out [N, P, Q, K] or [N, K, P, Q], K <= 8, from a packed source [N, H, W, C], stride 1.
//
// What must move for a pixel of the paper's last layer (3x3, 64 + 3 -> 3, two bytes a number): 134 bytes of input, 2
// mask bytes, 6 of output, 4 of ratio, 1 of new mask: 147; packed (72 channels) 157. This kernel reads each input pixel
// once and the patches' borders again, which the L2 cache mostly has: 1.31 times for 3x3 (252 pixels for 12 x 16).
//
// With so few filters the taps would read shared memory R * S times for 8 columns of products each. So the
// product is made first, for input pixels, and shifted afterwards:
//
//   products[(k, r, s)][pixel] = sum over c of  source[pixel][c] * filters[k][r][s][c]     one matrix product, K R S
//   columns out[k][i, j]               = sum over r, s of products[(k, r, s)][i + r, j + s]
//
// Filters [K, R, S, C] are that product's second factor as they lie. Every input pixel goes through the tensor cores
// and through shared memory once; holes and the border are zeros by the predicate of the copy. A pixel's Inf meets no
// structural zero that ends in an output: columns past K R S are never added.
#include "ends.h"
#include "ends_shapes.h"
#include "fragments.cuh"
#include "launch.cuh"
#include "swizzle.cuh"

#include <algorithm>

namespace pconv::cuda {
namespace {

// Few columns: 64 rows a warp, so that a filter fragment serves four; many: half of that, because of the registers.
template <int Columns, int Warps>
struct LastTile {
    static constexpr int columns = Columns, threads = 32 * Warps;
    static constexpr int warp_rows = last_rows / Warps, down = warp_rows / 16, across = Columns / 8;
    static constexpr int stage_bytes = (last_rows + Columns) * 128;
    static_assert(Columns % 16 == 0, "filter fragments are read two groups of 8 at a time");
};
using Narrow = LastTile<last_narrow_columns, 4>;
using ManyColumns = LastTile<last_wide_columns, 8>;

// Products in shared memory are [column][pixel]. The pitch is 4 past a multiple of 16: the four columns that a warp
// writes together then lie 8 banks apart, and pixels are read without conflict anyway.
constexpr int products_pitch = last_rows + 4;

struct LastLayerParams {
    GemmParams conv;
    int tile_h, patch_w, patch_pixels;  // output rows of a tile; the input pixels it needs, at most last_rows
    int tiles_down, tiles_across;
    int products;        // K * R * S
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

PCONV_DEV TileAt locate_tile(const LastLayerParams& p) {
    const int across = blockIdx.x % p.tiles_across, line = blockIdx.x / p.tiles_across;
    const int n = line / p.tiles_down;
    return {n, (line - n * p.tiles_down) * p.tile_h, across * last_tile_w};
}

// Returns whether the patch has any valid pixel; a barrier.
template <class Tile>
PCONV_DEV bool prepare_patch(const LastLayerParams& p, const TileAt& at, Patch& patch) {
    const GemmParams& conv = p.conv;
    const uint8_t* const mask = conv.mask.bytes ? conv.mask.bytes + at.n * conv.mask.batch_step : nullptr;
    int any = 0;
    for (int row = threadIdx.x; row < last_rows; row += Tile::threads) {
        const int patch_y = row / p.patch_w, y = at.i0 - conv.pad_h + patch_y,
                  x = at.j0 - conv.pad_w + row - patch_y * p.patch_w;
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
PCONV_DEV void load_chunk(const LastLayerParams& p, const Patch& patch, int n, int chunk, uint32_t stage) {
    using T = typename Math::Storage;
    const GemmParams& conv = p.conv;
    const int piece = threadIdx.x % 8, channels = conv.source_channels;
    const int channel = (chunk * 8 + piece) * Math::chunk;
    const bool exists = channel < channels;
    if (!exists && (piece % 2 == 0 || channel - Math::chunk >= channels || PCONV_PLANT(90))) return;
    int block = 0;
    while (block < conv.packing.blocks - 1 && channel >= conv.packing.start[block + 1] && !PCONV_PLANT(91)) ++block;
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
PCONV_DEV void stage_products(
    const LastLayerParams& p, const float (&sums)[Tile::down][Tile::across][4], float* products) {
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

// sum(1) / sum(mask) of a window. Up to four blocks are counted side by side in the bytes of one word: a window has at
// most 25 pixels.
PCONV_DEV float window_scale(const LastLayerParams& p, const Patch& patch, int first_row) {
    uint32_t pixels = 0;
    for (int r = 0; r < p.conv.r; ++r)
        for (int s = 0; s < p.conv.s; ++s) {
            const uint32_t valid = patch.valid[first_row + r * p.patch_w + s];
            pixels += (valid & 1) | (valid & 2) << 7 | (valid & 4) << 14 | (valid & 8) << 21;
        }
    int count = 0;
    for (int b = 0; b < p.conv.packing.blocks; ++b)
        count += int(pixels >> (8 * b) & 255) *
                 (PCONV_PLANT(92) ? p.conv.packing.first[1] : p.conv.packing.first[b + 1] - p.conv.packing.first[b]);
    return count > 0 ? float(p.conv.full) / float(count) : 0.f;
}

// A thread makes an output pixel: its taps' products, one after another, for all filters side by side.
template <class Math, class Tile>
PCONV_DEV void store_pixels(const LastLayerParams& p, const TileAt& at, const Patch& patch, const float* products) {
    using T = typename Math::Storage;
    const GemmParams& conv = p.conv;
    const int taps = conv.r * conv.s;
    for (int id = threadIdx.x; id < p.tile_h * last_tile_w; id += Tile::threads) {
        const int i = id / last_tile_w, j = id % last_tile_w, y = at.i0 + i, x = at.j0 + j;
        if (y >= conv.out_h || x >= conv.out_w) continue;
        const int first_row = i * p.patch_w + j;
        float sums[last_max_filters] = {};
        for (int r = 0; r < conv.r; ++r)
            for (int s = 0; s < conv.s; ++s) {
                const float* const own = products + (r * conv.s + s) * products_pitch + first_row + r * p.patch_w + s;
#pragma unroll
                for (int k = 0; k < last_max_filters; ++k)
                    if (k < conv.columns) sums[k] += own[k * taps * products_pitch];
            }
        const float scale = window_scale(p, patch, first_row);
        const int plane = conv.out_h * conv.out_w, pixel = y * conv.out_w + x;
        T* const out = static_cast<T*>(conv.out) + int64_t(at.n) * plane * conv.columns +
                       (conv.out_nchw ? pixel : pixel * conv.columns);
#pragma unroll
        for (int k = 0; k < last_max_filters; ++k) {
            if (k >= conv.columns) break;
            const float bias = conv.bias ? Math::load(static_cast<const T*>(conv.bias)[k]) : 0.f;
            out[k * (conv.out_nchw ? plane : 1)] =
                Math::store(scale > 0.f || PCONV_PLANT(93) ? sums[k] * scale + bias : 0.f);
        }
        if (conv.ratio && at.n < conv.ratio_n) {
            conv.ratio[int64_t(at.n) * plane + pixel] = scale;
            conv.alive[int64_t(at.n) * plane + pixel] = scale > 0.f;
        }
    }
}

template <class Math, class Tile>
__global__ void __launch_bounds__(Tile::threads, 2) last_layer_kernel(const LastLayerParams p) {
    PCONV_DYN_SMEM(shared);
    Patch& patch = *reinterpret_cast<Patch*>(shared + p.tables_at);
    const TileAt at = locate_tile(p);
    // A patch of holes alone needs no load and no product.
    const int chunks = prepare_patch<Tile>(p, at, patch) ? p.chunks : 0;
    const uint32_t pipeline = smem_u32(shared);
    float sums[Tile::down][Tile::across][4] = {};
    if (chunks > 0) load_chunk<Math, Tile>(p, patch, at.n, 0, pipeline);
    cp_async_commit();
    for (int chunk = 0; chunk < chunks; ++chunk) {
        const int reading = chunk % p.stages * Tile::stage_bytes;
        if (chunk + 1 < chunks)
            load_chunk<Math, Tile>(
                p, patch, at.n, chunk + 1,
                pipeline + (PCONV_PLANT(94) ? 0 : (chunk + 1) % p.stages * Tile::stage_bytes));
        cp_async_commit();  // an empty group at the end, so that all but the newest is always this chunk
        if (!PCONV_PLANT(95)) cp_async_wait<1>();
        if (!PCONV_PLANT(96)) __syncthreads();
        const int pieces = (p.conv.source_channels - chunk * 8 * Math::chunk) / Math::chunk;
        multiply_chunk<Math, Tile>(pipeline + reading, (pieces + 1) / 2, sums);
        if (!PCONV_PLANT(97)) __syncthreads();  // this stage is refilled next, or holds the products
    }
    cp_async_wait<0>();
    float* const products = reinterpret_cast<float*>(shared);
    stage_products<Tile>(p, sums, products);
    if (!PCONV_PLANT(98)) __syncthreads();
    store_pixels<Math, Tile>(p, at, patch, products);
}

template <class Math, class Tile>
Status launch_last(const char* name, const GemmParams& conv, cudaStream_t stream) {
    LastLayerParams p{};
    p.conv = conv;
    p.patch_w = last_tile_w + conv.s - 1;
    const int most = last_rows / p.patch_w - (conv.r - 1), tiles_down = (conv.out_h + most - 1) / most;
    if (tiles_down == 0) return {};
    p.tile_h = (conv.out_h + tiles_down - 1) / tiles_down;  // tiles of one height instead of a ragged one
    p.tiles_down = (conv.out_h + p.tile_h - 1) / p.tile_h;
    p.tiles_across = (conv.out_w + last_tile_w - 1) / last_tile_w;
    p.patch_pixels = (p.tile_h + conv.r - 1) * p.patch_w;
    p.products = conv.columns * conv.r * conv.s;
    p.chunks = (conv.source_channels + 8 * Math::chunk - 1) / (8 * Math::chunk);
    p.stages = std::min(p.chunks, 2);
    const int products_bytes = p.products * products_pitch * int(sizeof(float));
    p.tables_at = std::max(p.stages * Tile::stage_bytes, products_bytes);
    const dim3 grid(unsigned(int64_t(conv.n) * p.tiles_down * p.tiles_across));
    return launch(
        name, last_layer_kernel<Math, Tile>, grid, dim3(Tile::threads), p.tables_at + sizeof(Patch), stream, p);
}

template <class Math>
Status by_columns(const GemmParams& p, cudaStream_t stream) {
    if (p.columns * p.r * p.s <= last_narrow_columns) return launch_last<Math, Narrow>("last layer", p, stream);
    return launch_last<Math, ManyColumns>("last layer, many columns", p, stream);
}

}  // namespace

Status last_layer(MathId math, const GemmParams& p, cudaStream_t stream) {
    switch (math) {
        case MathId::bf16: return by_columns<Bf16>(p, stream);
        case MathId::f16: return by_columns<Half>(p, stream);
        case MathId::tf32: return by_columns<Tf32>(p, stream);
        case MathId::ieee: break;
    }
    return {cudaErrorInvalidValue, "last layer: no such arithmetic"};
}

}  // namespace pconv::cuda
