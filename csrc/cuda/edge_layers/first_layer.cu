// The first layer: out [N, P, Q, K] or [N, K, P, Q] from a source of C <= 4 channels in the same layout, read as it
// lies.
//
// What must move for a pixel of the paper's first layer (7x7, stride 2, 3 -> 64, two bytes a number, channels_last):
// 128 bytes of output, 4 input pixels of 6 bytes and a mask byte, 4 of ratio, 1 of new mask: 161. This kernel moves
// those once but for the patches' borders, which neighbouring tiles read again (37 x 37 input pixels instead of 32 x 32
// for 16 x 16 output pixels: 171 bytes if no cache helped), and the filters once a block. The general kernels read and
// write a packed copy of the input on top and gather each input pixel R * S / stride^2 times.
//
// A block keeps its filters in shared memory and walks over tiles of 16 x 16 output pixels. The masked patch of a tile
// lies in shared memory as [row][pixel][4 channels], zeros in holes, in the border and in channels that do not exist.
// The reduction runs over (r, s, 4 channels), each filter row padded to whole 32-byte steps:
//
//   A  straight out of the patch: an output pixel's step is 32 neighbouring bytes of a patch row
//   B  filters [columns][R][S padded][4], pitch odd in 16-byte units so that ldmatrix meets all banks
//
// In the padding of S a pixel meets filters that are zero, but it is a neighbour's pixel, and Inf * 0 is NaN: A is
// cleared.
#include "../launch.cuh"
#include "first_patch.cuh"

#include <algorithm>

namespace pconv::cuda {
namespace {

// sum(1) / sum(mask) of the window of this lane's pixel.
PCONV_DEV float window_scale(const FirstLayerParams& p, const uint64_t* words, int tile_row, int tile_column) {
    const uint64_t window = (uint64_t(1) << p.conv.window.s) - 1;
    int pixels = 0;
    for (int r = 0; r < p.conv.window.r; ++r)
        pixels +=
            __popcll(words[tile_row * p.conv.window.stride_h + r] >> (tile_column * p.conv.window.stride_w) & window);
    return pixels > 0 ? float(p.conv.output.full) / float(pixels * p.conv.source_channels) : 0.f;
}

// Which filter rows meet a valid pixel in this warp's part of the patch: the others are left out.
PCONV_DEV uint32_t live_filter_rows(const FirstLayerParams& p, const uint64_t* words, int lane, int first_tile_row) {
    uint64_t any = 0;
    if (lane < p.conv.window.r)
        for (int i = 0; i < tile_rows_per_warp; ++i) any |= words[(first_tile_row + i) * p.conv.window.stride_h + lane];
    return __ballot_sync(0xffffffffu, any != 0);
}

// 16 pixels x 32 bytes. Pixels of one tile row lie a stride apart; ldmatrix wants rows at multiples of 16 bytes, which
// half types reach where the stride is 2.
template <bool aligned_pixels>
PCONV_DEV void read_pixels(uint32_t (&a)[4], const uint8_t* row, int pixel_step, int lane) {
    if constexpr (aligned_pixels) {
        ldmatrix_x4(a, smem_u32(row + lane % 16 * pixel_step + lane / 16 * 16));
    } else {
#pragma unroll
        for (int i = 0; i < 4; ++i)
            a[i] = *reinterpret_cast<const uint32_t*>(
                row + (lane / 4 + i % 2 * 8) * pixel_step + lane % 4 * 4 + i / 2 * 16);
    }
}

template <class Math, bool aligned_pixels>
PCONV_DEV void multiply_patch(
    const FirstLayerParams& p, const uint8_t* shared, uint32_t live_rows, int first_tile_row, int pairs,
    float (&sums)[tile_rows_per_warp][FirstLayer<Math>::columns / 8][4]) {
    using Layer = FirstLayer<Math>;
    const int lane = threadIdx.x % 32;
    const int pixel_step = p.conv.window.stride_w * Layer::pixel_bytes,
              patch_pitch = p.patch_pixels * Layer::pixel_bytes;
    const uint8_t* const patch = shared + p.patch_at + first_tile_row * p.conv.window.stride_h * patch_pitch;
    const uint32_t filters = smem_u32(shared) + (lane % 8 + lane / 16 * 8) * p.filter_pitch + lane / 8 % 2 * 16;
    // Of a row's last step this lane keeps the taps that exist. The registers' second half is 16 bytes further.
    const int last_tap = (p.steps_per_row - 1) * Layer::taps_per_step + lane % 4 * 4 / Layer::pixel_bytes;
    const uint32_t keep_near = last_tap < p.conv.window.s ? ~0u : 0u;
    const uint32_t keep_far = last_tap + 16 / Layer::pixel_bytes < p.conv.window.s ? ~0u : 0u;
    for (int r = 0; r < p.conv.window.r; ++r) {
        if (!(live_rows >> r & 1)) continue;
        for (int step = 0; step < p.steps_per_row; ++step) {
            const bool last = step == p.steps_per_row - 1;
            const uint32_t near_mask = last ? keep_near : ~0u, far_mask = last ? keep_far : ~0u;
            uint32_t a[tile_rows_per_warp][4];
#pragma unroll
            for (int i = 0; i < tile_rows_per_warp; ++i) {
                read_pixels<aligned_pixels>(
                    a[i], patch + (i * p.conv.window.stride_h + r) * patch_pitch + step * 32, pixel_step, lane);
                a[i][0] &= near_mask, a[i][1] &= near_mask, a[i][2] &= far_mask, a[i][3] &= far_mask;
            }
            // All filters are requested before the first product: one latency for all. Few filters: no work for columns
            // that are not there.
            uint32_t b[Layer::pairs][4];
#pragma unroll
            for (int pair = 0; pair < Layer::pairs; ++pair)
                if (pair < pairs)
                    ldmatrix_x4(b[pair], filters + pair * 16 * p.filter_pitch + (r * p.steps_per_row + step) * 32);
#pragma unroll
            for (int pair = 0; pair < Layer::pairs; ++pair) {
                if (pair >= pairs) break;
#pragma unroll
                for (int i = 0; i < tile_rows_per_warp; ++i)
#pragma unroll
                    for (int half = 0; half < 2; ++half)
                        Math::multiply(sums[i][pair * 2 + half], a[i], &b[pair][half * 2]);
            }
        }
    }
}

// A run of 16 bytes of the output: neighbouring columns of a pixel, or neighbouring pixels of a column. `exist` of its
// elements are stored, all at once where they are all there and the place is aligned.
template <class T, int run>
PCONV_DEV void store_run(T* out, const T* staged, int exist) {
    // The pointer, not the place: where a batch is launched in parts, a part may begin anywhere.
    if (exist == run && reinterpret_cast<uintptr_t>(out) % sizeof(Run<T, run>) == 0) {
        *reinterpret_cast<Run<T, run>*>(out) = *reinterpret_cast<const Run<T, run>*>(staged);
    } else {
        for (int e = 0; e < run && e < exist; ++e) out[e] = staged[e];
    }
}

// 16 pixels of one tile row, staged_columns columns, out of the warp's own staging.
template <class Math>
PCONV_DEV void store_staged(
    const FirstLayerParams& p, const TileAt& at, const uint8_t* staging, int tile_row, int column0) {
    using Layer = FirstLayer<Math>;
    using T = typename Layer::Element;
    constexpr int run = Math::chunk;
    constexpr int row_runs = Layer::staged_columns / run, plane_runs = first_tile / run;
    const GemmParams& conv = p.conv;
    const int y = at.i0 + tile_row, lane = threadIdx.x % 32;
    if (y >= conv.output.h) return;
    T* const out = static_cast<T*>(conv.output.out);
    if (!conv.output.nchw) {
        for (int id = lane; id < first_tile * row_runs; id += 32) {
            const int pixel = id / row_runs, first = id % row_runs * run, column = column0 + first, x = at.j0 + pixel;
            if (x >= conv.output.w || column >= conv.output.columns) continue;
            const int64_t place =
                ((int64_t(at.n) * conv.output.h + y) * conv.output.w + x) * conv.output.columns + column;
            const auto* const staged = reinterpret_cast<const T*>(staging + pixel * Layer::row_pitch) + first;
            store_run<T, run>(out + place, staged, min(run, conv.output.columns - column));
        }
    } else {
        for (int id = lane; id < Layer::staged_columns * plane_runs; id += 32) {
            const int first = id % plane_runs * run, x = at.j0 + first, column = column0 + id / plane_runs;
            if (x >= conv.output.w || column >= conv.output.columns) continue;
            const int64_t place =
                ((int64_t(at.n) * conv.output.columns + column) * conv.output.h + y) * conv.output.w + x;
            const auto* const staged =
                reinterpret_cast<const T*>(staging + id / plane_runs * Layer::plane_pitch) + first;
            store_run<T, run>(out + place, staged, min(run, conv.output.w - x));
        }
    }
}

// One fragment's value into the staging: [pixel][column], or [column][pixel] for NCHW.
template <class Math>
PCONV_DEV void stage_pair(bool planes, uint8_t* staging, int pixel, int column, float low, float high) {
    using Layer = FirstLayer<Math>;
    using T = typename Layer::Element;
    const Run<T, 2> both{{Math::store(low), Math::store(high)}};
    if (!planes) {
        *reinterpret_cast<Run<T, 2>*>(staging + pixel * Layer::row_pitch + column * Layer::element_bytes) = both;
    } else {
        reinterpret_cast<T*>(staging + column * Layer::plane_pitch)[pixel] = both.values[0];
        reinterpret_cast<T*>(staging + (column + 1) * Layer::plane_pitch)[pixel] = both.values[1];
    }
}

// scale > 0 ? activation of (scale * sum + bias) : 0. Each warp stages and stores its own pixels: no barrier of the
// block is needed, and a warp that is done goes on to the next tile's loads.
template <class Math>
PCONV_DEV void store_tile(
    const FirstLayerParams& p, const TileAt& at, uint8_t* shared, float scale, int first_tile_row, int column0,
    const float (&sums)[tile_rows_per_warp][FirstLayer<Math>::columns / 8][4]) {
    using Layer = FirstLayer<Math>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const auto* const bias = reinterpret_cast<const float*>(shared + p.bias_at);
    uint8_t* const staging = shared + p.staging_at + warp * Layer::staging_bytes;
#pragma unroll
    for (int i = 0; i < tile_rows_per_warp; ++i)
#pragma unroll
        for (int part = 0; part < Layer::columns / Layer::staged_columns; ++part) {
            const int part_column = part * Layer::staged_columns;
            if (column0 + part_column >= p.conv.output.columns) break;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int pixel = half * 8 + lane / 4;
                const float own_scale = __shfl_sync(0xffffffffu, scale, i * first_tile + pixel);
#pragma unroll
                for (int j = 0; j < Layer::staged_columns / 8; ++j) {
                    const int column = j * 8 + lane % 4 * 2;
                    const float* const two = &sums[i][part_column / 8 + j][half * 2];
                    const bool new_mask = own_scale > 0.f;
                    const float* const own_bias = bias + part_column + column;
                    const float negative_slope = p.conv.output.negative_slope;
                    const float low = new_mask ? activated(two[0] * own_scale + own_bias[0], negative_slope) : 0.f;
                    const float high = new_mask ? activated(two[1] * own_scale + own_bias[1], negative_slope) : 0.f;
                    stage_pair<Math>(p.conv.output.nchw, staging, pixel, column, low, high);
                }
            }
            __syncwarp();
            store_staged<Math>(p, at, staging, first_tile_row + i, column0 + part_column);
            __syncwarp();  // before the next part overwrites the staging
        }
}

// Grid: x blocks that share the tiles of pixels, y tiles of columns.
template <class Math, bool aligned_pixels>
__global__ void __launch_bounds__(first_threads, 2) first_layer_kernel(const FirstLayerParams p) {
    using Layer = FirstLayer<Math>;
    PCONV_DYN_SMEM(shared);
    const int lane = threadIdx.x % 32, first_tile_row = threadIdx.x / 32 * tile_rows_per_warp;
    const int column0 = blockIdx.y * Layer::columns;
    const int pairs = (min(Layer::columns, p.conv.output.columns - column0) + 15) / 16;
    const auto* const words = reinterpret_cast<const uint64_t*>(shared + p.valid_at);
    stage_filters<Math>(p, shared, column0);
    for (int tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        const TileAt at = locate_tile(p, tile);
        if (p.conv.output.nchw)
            stage_patch<Math, true>(p, at, shared);
        else
            stage_patch<Math, false>(p, at, shared);
        __syncthreads();  // the first one also covers the filters

        const int tile_row = first_tile_row + lane / first_tile, tile_column = lane % first_tile;
        const int y = at.i0 + tile_row, x = at.j0 + tile_column;
        const bool inside = y < p.conv.output.h && x < p.conv.output.w;
        const float scale = window_scale(p, words, tile_row, tile_column);
        if (p.conv.output.ratio && blockIdx.y == 0 && inside && at.n < p.conv.output.ratio_n) {
            const int64_t pixel = (int64_t(at.n) * p.conv.output.h + y) * p.conv.output.w + x;
            p.conv.output.ratio[pixel] = scale;
            p.conv.output.new_mask[pixel] = scale > 0.f;
        }
        float sums[tile_rows_per_warp][Layer::columns / 8][4] = {};
        const uint32_t live_rows = live_filter_rows(p, words, lane, first_tile_row);
        multiply_patch<Math, aligned_pixels>(p, shared, live_rows, first_tile_row, pairs, sums);
        __syncthreads();  // everyone has read the patch; the next one may come
        store_tile<Math>(p, at, shared, scale, first_tile_row, column0, sums);
    }
}

template <class Math>
Status launch_first(const GemmParams& conv, const Strides& filters, int blocks, cudaStream_t stream) {
    using Layer = FirstLayer<Math>;
    FirstLayerParams p{};
    p.conv = conv;
    p.filters = filters;
    p.tiles_down = (conv.output.h + first_tile - 1) / first_tile;
    p.tiles_across = (conv.output.w + first_tile - 1) / first_tile;
    p.tiles = conv.output.n * p.tiles_down * p.tiles_across;
    p.steps_per_row = (conv.window.s + Layer::taps_per_step - 1) / Layer::taps_per_step;
    p.patch_rows = (first_tile - 1) * conv.window.stride_h + conv.window.r;
    p.patch_width = (first_tile - 1) * conv.window.stride_w + conv.window.s;
    // The last pixel's padded taps too; an even number of pixels keeps rows at multiples of 16 bytes.
    p.patch_pixels = ((first_tile - 1) * conv.window.stride_w + p.steps_per_row * Layer::taps_per_step + 1) / 2 * 2;
    p.filter_pitch = conv.window.r * p.steps_per_row * 32 + 16;
    p.patch_at = Layer::columns * p.filter_pitch;
    p.valid_at = p.patch_at + p.patch_rows * p.patch_pixels * Layer::pixel_bytes;
    p.bias_at = p.valid_at + p.patch_rows * 8;
    p.staging_at = (p.bias_at + Layer::columns * 4 + 15) / 16 * 16;
    const size_t shared_bytes = p.staging_at + first_warps * Layer::staging_bytes;
    const dim3 grid(std::min(p.tiles, blocks), (conv.output.columns + Layer::columns - 1) / Layer::columns);
    const bool aligned_pixels = conv.window.stride_w * Layer::pixel_bytes % 16 == 0;
    return launch(
        "first layer",
        aligned_pixels ? first_layer_kernel<Math, true> : first_layer_kernel<Math, Layer::pixel_bytes == 16>, grid,
        dim3(first_threads), shared_bytes, stream, p);
}

}  // namespace

Status first_layer(MathId math, const GemmParams& p, const Strides& filter_strides, int blocks, cudaStream_t stream) {
    return by_math(math, "first layer", [&](auto type) {
        return launch_first<typename decltype(type)::type>(p, filter_strides, blocks, stream);
    });
}

}  // namespace pconv::cuda
