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
#include "../launch.cuh"
#include "edge_layer_kernels.h"
#include "last_products.cuh"

namespace pconv::cuda {
namespace {

using Narrow = LastTile<last_narrow_columns, 4>;
using ManyColumns = LastTile<last_wide_columns, 8>;

// sum(1) / sum(mask) of a window. Both blocks are counted side by side in the bytes of one word: a window has at most
// 25 pixels.
PCONV_DEV float window_scale(const LastParams& p, const Patch& patch, int first_row) {
    uint32_t pixels = 0;
    for (int r = 0; r < p.conv.window.r; ++r)
        for (int s = 0; s < p.conv.window.s; ++s) {
            const uint32_t valid = patch.valid[first_row + r * p.patch_w + s];
            pixels += (valid & 1) | (valid & 2) << 7;
        }
    int count = 0;
    for (int b = 0; b < p.conv.packing.blocks; ++b)
        count += int(pixels >> (8 * b) & 255) * (p.conv.packing.first[b + 1] - p.conv.packing.first[b]);
    return count > 0 ? float(p.conv.output.full) / float(count) : 0.f;
}

// A thread makes an output pixel: its taps' products, one after another, for all filters side by side.
template <class Math, class Tile>
PCONV_DEV void store_pixels(const LastParams& p, const TileAt& at, const Patch& patch, const float* products) {
    using T = typename Math::Storage;
    const GemmParams& conv = p.conv;
    const int taps = conv.window.r * conv.window.s;
    for (int id = threadIdx.x; id < p.tile_h * last_tile_w; id += Tile::threads) {
        const int i = id / last_tile_w, j = id % last_tile_w, y = at.i0 + i, x = at.j0 + j;
        if (y >= conv.output.h || x >= conv.output.w) continue;
        const int first_row = i * p.patch_w + j;
        float sums[last_max_filters] = {};
        for (int r = 0; r < conv.window.r; ++r)
            for (int s = 0; s < conv.window.s; ++s) {
                const float* const own =
                    products + (r * conv.window.s + s) * products_pitch + first_row + r * p.patch_w + s;
#pragma unroll
                for (int k = 0; k < last_max_filters; ++k)
                    if (k < conv.output.columns) sums[k] += own[k * taps * products_pitch];
            }
        const float scale = window_scale(p, patch, first_row);
        const int plane = conv.output.h * conv.output.w, pixel = y * conv.output.w + x;
        T* const out = static_cast<T*>(conv.output.out) + int64_t(at.n) * plane * conv.output.columns +
                       (conv.output.nchw ? pixel : pixel * conv.output.columns);
#pragma unroll
        for (int k = 0; k < last_max_filters; ++k) {
            if (k >= conv.output.columns) break;
            const float bias = conv.output.bias ? Math::load(static_cast<const T*>(conv.output.bias)[k]) : 0.f;
            const float value = activated(sums[k] * scale + bias, conv.output.negative_slope);
            out[k * (conv.output.nchw ? plane : 1)] = Math::store(scale > 0.f ? value : 0.f);
        }
        if (conv.output.ratio && at.n < conv.output.ratio_n) {
            conv.output.ratio[int64_t(at.n) * plane + pixel] = scale;
            conv.output.new_mask[int64_t(at.n) * plane + pixel] = scale > 0.f;
        }
    }
}

template <class Math, class Tile>
__global__ void __launch_bounds__(Tile::threads, 2) last_layer_kernel(const LastParams p) {
    PCONV_DYN_SMEM(shared);
    Patch& patch = *reinterpret_cast<Patch*>(shared + p.tables_at);
    const TileAt at = locate_tile(p);
    // A patch of holes alone needs no load and no product.
    const int chunks = prepare_patch<Tile>(p, at, patch) ? p.chunks : 0;
    float* const products = reinterpret_cast<float*>(shared);
    make_products<Math, Tile>(p, at, patch, chunks, shared, products, [] {});
    __syncthreads();
    store_pixels<Math, Tile>(p, at, patch, products);
}

template <class Math, class Tile>
Status launch_last(const char* name, const GemmParams& conv, cudaStream_t stream) {
    if (conv.output.h == 0) return {};
    const LastParams p = last_params<Math, Tile>(
        conv, conv.output.h, conv.output.w, conv.output.columns * conv.window.r * conv.window.s);
    const dim3 grid(unsigned(int64_t(conv.output.n) * p.tiles_down * p.tiles_across));
    return launch(
        name, last_layer_kernel<Math, Tile>, grid, dim3(Tile::threads), p.tables_at + sizeof(Patch), stream, p);
}

template <class Math>
Status by_columns(const GemmParams& p, cudaStream_t stream) {
    if (p.output.columns * p.window.r * p.window.s <= last_narrow_columns)
        return launch_last<Math, Narrow>("last layer", p, stream);
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
