// The decoder's last stage: out [N, H, W, K] or [N, K, H, W] from low [N, H / 2, W / 2, Cu], packed, and a skip of as
// many channels as the output, the picture itself, read as it lies.
//
// What must move for an output pixel of the paper's (64 + 3 -> 3, two bytes a number): 32 bytes of low, 6 of skip, 6 of
// output, 1.25 mask bytes, 4 of ratio, 1 of new mask: 50 bytes, 26 us for 6 pictures of 512 x 512 at 3 TB/s.
//
// low: as in last_layer.cu the product is made first, for small pixels, and shifted afterwards. A column is a tap of a
// phase of a filter, so the filters in phases, [4 K][2][2][Cu], are the product's second factor as they lie:
//
//   products[(phase, k, tap)][pixel] = sum over c of  low[pixel][c] * phases[phase K + k][tap][c]      16 K columns
//   out[k][2 i + a, 2 j + b]         = sum over taps (y, x) of products[(2 a + b, k, tap)][i - 1 + a + y, j - 1 + b +
//   x]
//                                    + sum over r, s, c of skip[2 i + a - 1 + r, 2 j + b - 1 + s][c] * weight[k][Cu +
//                                    c][r][s]
//
// The skip's 81 multiplications a pixel are left to plain FFMA: about 6 us of 132 multiprocessors, beside the copies.
// Its pixels are selected by their mask as they are staged, so no window meets a neighbour's Inf or NaN.
#include "../launch.cuh"
#include "../upcat/upcat.h"
#include "../upcat/upcat_phases.cuh"
#include "last_products.cuh"

namespace pconv::cuda {
namespace {

// A thread makes two output pixels beside each other: both columns of one row of a small pixel.
constexpr int skip_w = 2 * last_tile_w + 2, most_skip_h = 2 * (last_rows / (last_tile_w + 2) - 2) + 2;

template <int Channels>
struct UpcatLastParams {
    LastParams low;
    UpcatBlock skip;
    Strides weight_strides;  // of the whole weight, from its first skip channel on
    const void* skip_weight;
    int low_channels;  // that exist: what a small pixel counts
    int skip_at;       // bytes to SkipPatch
};

// Channels values a pixel in the order of memory, whatever the layout of the skip is.
template <int Channels>
struct SkipPatch {
    float values[most_skip_h][skip_w * Channels];
    float weights[9][Channels][4];  // [tap][c][k], the filters padded to what one load takes
    uint8_t valid[most_skip_h][skip_w];
};

// Two neighbouring numbers, stored at once.
template <class T>
struct alignas(2 * sizeof(T)) Two {
    T first, second;
};

// tf32 rounds what it multiplies, for skip as for low.
template <class Math>
struct Rounded {
    PCONV_DEV static float of(float value) { return value; }
};
template <>
struct Rounded<Tf32> {
    PCONV_DEV static float of(float value) { return __uint_as_float(to_tf32(value)); }
};

// Fills `patch`; the caller's barrier makes it visible.
template <class Math, class Tile, int Channels>
PCONV_DEV void stage_skip(const UpcatLastParams<Channels>& p, const TileAt& at, SkipPatch<Channels>& patch) {
    using T = typename Math::Storage;
    const UpcatBlock& skip = p.skip;
    const int plane = skip.h * skip.w;
    const T* const source = static_cast<const T*>(skip.source) + int64_t(at.n) * plane * Channels;
    const uint8_t* const mask = skip.mask.bytes ? skip.mask.bytes + at.n * skip.mask.batch_step : nullptr;
    const int y0 = 2 * at.i0 - 1, x0 = 2 * at.j0 - 1;
    const int pixel_step = p.low.conv.output.nchw ? 1 : Channels, channel_step = p.low.conv.output.nchw ? plane : 1;
    constexpr int batch = 4;
    const int count = (2 * p.low.tile_h + 2) * skip_w;
    for (int first = threadIdx.x; first < count; first += batch * Tile::threads) {
        // Values and mask bytes of a batch are asked for together, whether they are holes or not: one latency for all.
        T values[batch][Channels];
        bool valid[batch];
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int id = first + i * Tile::threads, row = id / skip_w;
            const int y = y0 + row, x = x0 + id - row * skip_w;
            const bool inside = id < count && unsigned(y) < unsigned(skip.h) && unsigned(x) < unsigned(skip.w);
            const int pixel = inside ? y * skip.w + x : 0;
#pragma unroll
            for (int c = 0; c < Channels; ++c) values[i][c] = source[pixel * pixel_step + c * channel_step];
            const int byte = mask ? __ldg(mask + pixel) : 1;
            valid[i] = inside && byte != 0;
        }
#pragma unroll
        for (int i = 0; i < batch; ++i) {
            const int id = first + i * Tile::threads, row = id / skip_w, column = id - row * skip_w;
            if (id >= count) continue;
            patch.valid[row][column] = valid[i];
#pragma unroll
            for (int c = 0; c < Channels; ++c)
                patch.values[row][column * Channels + c] = valid[i] ? Rounded<Math>::of(Math::load(values[i][c])) : 0.f;
        }
    }
    const T* const weight = static_cast<const T*>(p.skip_weight);
    const Strides& step = p.weight_strides;
    for (int id = threadIdx.x; id < 9 * Channels * 4; id += Tile::threads) {
        const int k = id % 4, c = id / 4 % Channels, tap = id / (4 * Channels);
        float value = 0.f;
        if (k < Channels)
            value = Math::load(weight[k * step.at[0] + c * step.at[1] + tap / 3 * step.at[2] + tap % 3 * step.at[3]]);
        patch.weights[tap][c][k] = Rounded<Math>::of(value);
    }
}

// The products of one phase's four taps, for all filters.
template <int Channels>
PCONV_DEV void add_low(const float* products, int patch_w, int i, int j, int a, int b, float (&sums)[Channels]) {
    const float* own = products + ((2 * a + b) * Channels * 4) * products_pitch + (i + a) * patch_w + j + b;
#pragma unroll
    for (int k = 0; k < Channels; ++k)
#pragma unroll
        for (int tap = 0; tap < 4; ++tap) {
            sums[k] += own[(k * 4 + tap) * products_pitch + tap / 2 * patch_w + tap % 2];
        }
}

// Both pixels' windows of the skip: three rows of four pixels, each multiplied for whichever window it lies in.
template <int Channels>
PCONV_DEV void add_skip(const SkipPatch<Channels>& patch, int row, int j, float (&sums)[2][Channels]) {
#pragma unroll
    for (int r = 0; r < 3; ++r) {
        float values[4 * Channels];
#pragma unroll
        for (int e = 0; e < 4 * Channels; ++e) values[e] = patch.values[row + r][2 * j * Channels + e];
#pragma unroll
        for (int s = 0; s < 3; ++s)
#pragma unroll
            for (int c = 0; c < Channels; ++c) {
                const float4 weights = *reinterpret_cast<const float4*>(patch.weights[r * 3 + s][c]);
                const float of[4] = {weights.x, weights.y, weights.z, weights.w};
#pragma unroll
                for (int b = 0; b < 2; ++b)
#pragma unroll
                    for (int k = 0; k < Channels; ++k)
                        sums[b][k] = fmaf(values[(s + b) * Channels + c], of[k], sums[b][k]);
            }
    }
}

template <int Channels>
PCONV_DEV float stage_scale(
    const UpcatLastParams<Channels>& p, const Patch& small, const SkipPatch<Channels>& skip, int i, int j, int a,
    int b) {
    int of_low = 0, of_skip = 0;
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
        const int pixels = taps_together(a, tap / 2) * taps_together(b, tap % 2);
        of_low += (small.valid[(i + a + tap / 2) * p.low.patch_w + j + b + tap % 2] & 1) * pixels;
    }
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) of_skip += skip.valid[2 * i + a + tap / 3][2 * j + b + tap % 3];
    const int count = of_low * p.low_channels + of_skip * Channels;
    return count > 0 ? float(p.low.conv.output.full) / float(count) : 0.f;
}

template <class Math, class Tile, int Channels>
PCONV_DEV void store_stage(
    const UpcatLastParams<Channels>& p, const TileAt& at, const Patch& small, const SkipPatch<Channels>& skip,
    const float* products) {
    using T = typename Math::Storage;
    const GemmParams& conv = p.low.conv;
    const int plane = conv.output.h * conv.output.w;
    for (int id = threadIdx.x; id < 2 * p.low.tile_h * last_tile_w; id += Tile::threads) {
        const int j = id % last_tile_w, row = id / last_tile_w, i = row / 2, a = row % 2;
        const int y = 2 * at.i0 + row, x = 2 * (at.j0 + j);
        if (y >= conv.output.h || x >= conv.output.w) continue;
        float sums[2][Channels] = {}, scale[2];
        add_skip(skip, row, j, sums);
#pragma unroll
        for (int b = 0; b < 2; ++b) {
            add_low<Channels>(products, p.low.patch_w, i, j, a, b, sums[b]);
            scale[b] = stage_scale(p, small, skip, i, j, a, b);
        }
        T values[2][Channels];
#pragma unroll
        for (int b = 0; b < 2; ++b)
#pragma unroll
            for (int k = 0; k < Channels; ++k) {
                const float bias = conv.output.bias ? Math::load(static_cast<const T*>(conv.output.bias)[k]) : 0.f;
                const float own = scale[b];
                const float value = activated(sums[b][k] * own + bias, conv.output.negative_slope);
                values[b][k] = Math::store(own > 0.f ? value : 0.f);
            }
        const int pixel = y * conv.output.w + x;  // even, as the width is: pairs are aligned
        T* const out = static_cast<T*>(conv.output.out) + int64_t(at.n) * plane * Channels;
#pragma unroll
        for (int k = 0; k < Channels; ++k) {
            if (conv.output.nchw) {
                *reinterpret_cast<Two<T>*>(out + k * plane + pixel) = {values[0][k], values[1][k]};
            } else {  // the pair's 2 K numbers, two at a time
                const T* const flat = &values[0][0];
                *reinterpret_cast<Two<T>*>(out + pixel * Channels + 2 * k) = {flat[2 * k], flat[2 * k + 1]};
            }
        }
        if (conv.output.ratio && at.n < conv.output.ratio_n) {
            const int64_t place = int64_t(at.n) * plane + pixel;
            *reinterpret_cast<float2*>(conv.output.ratio + place) = make_float2(scale[0], scale[1]);
            *reinterpret_cast<Two<uint8_t>*>(conv.output.new_mask + place) = {scale[0] > 0.f, scale[1] > 0.f};
        }
    }
}

// As many blocks as shared memory has room for: what one waits for then passes behind the others' work.
template <class Math, class Tile, int Channels>
__global__ void __launch_bounds__(Tile::threads, Channels == 4 ? 2 : 3)
    upcat_last_kernel(const UpcatLastParams<Channels> p) {
    PCONV_DYN_SMEM(shared);
    Patch& small = *reinterpret_cast<Patch*>(shared + p.low.tables_at);
    auto& skip = *reinterpret_cast<SkipPatch<Channels>*>(shared + p.skip_at);
    const TileAt at = locate_tile(p.low);
    const int chunks = prepare_patch<Tile>(p.low, at, small) ? p.low.chunks : 0;
    float* const products = reinterpret_cast<float*>(shared);
    make_products<Math, Tile>(p.low, at, small, chunks, shared, products, [&] { stage_skip<Math, Tile>(p, at, skip); });
    __syncthreads();
    // Found again: kept through the products it would cost sm_100 a spilled register.
    store_stage<Math, Tile>(p, locate_tile(p.low), small, skip, products);
}

template <class Math, int Channels>
Status launch_upcat_last(const UpcatParams& stage, const UpcatLastSkip& skip, cudaStream_t stream) {
    using Tile = LastTile<16 * Channels, 8>;
    const UpcatBlock& low = stage.blocks[0];
    GemmParams conv{};
    conv.output = stage.output;
    conv.source = low.source;
    conv.filters = low.filters;
    conv.mask = low.mask;
    conv.source_h = low.h, conv.source_w = low.w, conv.source_channels = low.channels;
    // Of small pixels a row of output pixels sees one on either side.
    conv.window.r = conv.window.s = 3, conv.window.pad_h = conv.window.pad_w = 1;
    UpcatLastParams<Channels> p{};
    p.low = last_params<Math, Tile>(conv, low.h, low.w, 16 * Channels);
    p.skip = stage.blocks[1];
    p.skip.source = skip.source;
    p.skip_weight = skip.weight;
    p.weight_strides = skip.weight_strides;
    p.low_channels = stage.packing.first[1];
    p.skip_at = p.low.tables_at + int(sizeof(Patch));
    static_assert(sizeof(Patch) % 16 == 0, "weights are read four at a time");
    const dim3 grid(unsigned(int64_t(conv.output.n) * p.low.tiles_down * p.low.tiles_across));
    return launch(
        "upcat last", upcat_last_kernel<Math, Tile, Channels>, grid, dim3(Tile::threads),
        p.skip_at + sizeof(SkipPatch<Channels>), stream, p);
}

}  // namespace

Status upcat_last(MathId math, const UpcatParams& stage, const UpcatLastSkip& skip, cudaStream_t stream) {
    return by_math(math, "upcat last", [&](auto type) -> Status {
        using Math = typename decltype(type)::type;
        switch (stage.output.columns) {
            case 1: return launch_upcat_last<Math, 1>(stage, skip, stream);
            case 3: return launch_upcat_last<Math, 3>(stage, skip, stream);
            case 4: return launch_upcat_last<Math, 4>(stage, skip, stream);
            default: return {cudaErrorInvalidValue, "upcat last"};
        }
    });
}

}  // namespace pconv::cuda
