// The first layer's kernel (first_layer.cu) up to its product: what lies where in shared memory, and how it gets there.
#pragma once

#include "../gemm/epilogue.cuh"
#include "../plan/edge_layers.h"
#include "edge_layer_kernels.h"

#include <type_traits>

namespace pconv::cuda {

constexpr int first_warps = 8, first_threads = 32 * first_warps;
constexpr int tile_rows_per_warp = first_tile / first_warps;
constexpr int max_patch = (first_tile - 1) * first_max_stride + first_max_window;  // pixels across or down
constexpr int filter_rows_at_once = 4;
constexpr int rows_at_once = 3;                      // of the patch, a warp: with more the registers run out
constexpr int patch_chunks = (max_patch + 31) / 32;  // of 32 pixels, one a lane
static_assert(tile_rows_per_warp * first_tile == 32, "a lane counts one pixel's window");
static_assert(max_patch <= 64, "a patch row's valid pixels are the bits of one word");

// 64 columns of half types: two blocks fit on a multiprocessor by registers. Floats are twice as wide and get 32.
template <class Math>
struct FirstLayer {
    using Element = typename Math::Storage;
    using Bits = std::conditional_t<sizeof(Element) == 2, uint16_t, uint32_t>;  // moved without conversion
    static constexpr int element_bytes = sizeof(Element), pixel_bytes = 4 * element_bytes;
    static constexpr int columns = element_bytes == 2 ? 64 : 32, pairs = columns / 16;
    static constexpr int taps_per_step = 32 / pixel_bytes;
    // The way out: a warp stages 16 pixels of 32 columns at a time, transposed for NCHW.
    static constexpr int staged_columns = 32;
    static constexpr int row_pitch = staged_columns * element_bytes + 16, plane_pitch = first_tile * element_bytes + 16;
    static constexpr int staging_bytes =
        first_tile * row_pitch > staged_columns* plane_pitch ? first_tile * row_pitch : staged_columns * plane_pitch;
};

struct FirstLayerParams {
    GemmParams conv;
    Strides filters;
    int tiles, tiles_down, tiles_across;
    int steps_per_row;                                          // of 32 bytes, a filter row
    int patch_rows, patch_width, patch_pixels;                  // rows, pixels that are loaded, and with the padding
    int filter_pitch, patch_at, valid_at, bias_at, staging_at;  // bytes
};

struct TileAt {
    int n, i0, j0, y0, x0;
};

PCONV_DEV TileAt locate_tile(const FirstLayerParams& p, int tile) {
    const int across = tile % p.tiles_across, line = tile / p.tiles_across;
    const int n = line / p.tiles_down, i0 = (line - n * p.tiles_down) * first_tile, j0 = across * first_tile;
    return {
        n, i0, j0, i0 * p.conv.window.stride_h - p.conv.window.pad_h,
        j0 * p.conv.window.stride_w - p.conv.window.pad_w};
}

template <class Math>
PCONV_DEV typename FirstLayer<Math>::Bits as_operand(typename FirstLayer<Math>::Bits bits) {
    if constexpr (FirstLayer<Math>::element_bytes == 4)
        return to_tf32(__uint_as_float(bits));  // once here instead of once a fragment
    else
        return bits;
}

// Some rows of every filter, one place (s, c) of them. All loads come before the first store: a block begins with this,
// and nothing else hides the latencies.
template <class Math>
PCONV_DEV void stage_filter_rows(
    const FirstLayerParams& p, const typename FirstLayer<Math>::Bits* filters, bool exists, int first_r, int column0,
    typename FirstLayer<Math>::Bits* shared) {
    using Bits = typename FirstLayer<Math>::Bits;
    constexpr int columns = FirstLayer<Math>::columns / first_warps;
    const int warp = threadIdx.x / 32, row_places = p.steps_per_row * FirstLayer<Math>::taps_per_step * 4;
    Bits loaded[filter_rows_at_once][columns];
#pragma unroll
    for (int j = 0; j < filter_rows_at_once; ++j)
#pragma unroll
        for (int i = 0; i < columns; ++i) {
            const int r = first_r + j, column = column0 + warp + i * first_warps;
            const bool wanted = exists && r < p.conv.window.r && column < p.conv.output.columns;
            loaded[j][i] = wanted ? __ldg(filters + column * p.filters.at[0] + r * p.filters.at[2]) : Bits(0);
        }
#pragma unroll
    for (int j = 0; j < filter_rows_at_once; ++j) {
        if (first_r + j >= p.conv.window.r) break;
#pragma unroll
        for (int i = 0; i < columns; ++i)
            shared[(warp + i * first_warps) * (p.filter_pitch / int(sizeof(Bits))) + (first_r + j) * row_places] =
                as_operand<Math>(loaded[j][i]);
    }
}

// A warp takes one filter row at a time, a lane one place (s, c) of it: no division, and neighbouring lanes read
// neighbours whichever way the filters lie.
template <class Math>
PCONV_DEV void stage_filters(const FirstLayerParams& p, uint8_t* shared, int column0) {
    using Bits = typename FirstLayer<Math>::Bits;
    const int lane = threadIdx.x % 32, channels = p.conv.source_channels;
    const int places = p.steps_per_row * FirstLayer<Math>::taps_per_step * 4;
    const auto* const filters = static_cast<const Bits*>(p.conv.filters);
    for (int place = lane; place < places; place += 32) {
        const int s = place / 4, c = place % 4;
        const bool exists = s < p.conv.window.s && c < channels;
        const int64_t offset = exists ? c * p.filters.at[1] + s * p.filters.at[3] : 0;
        for (int first_r = 0; first_r < p.conv.window.r; first_r += filter_rows_at_once)
            stage_filter_rows<Math>(
                p, filters + offset, exists, first_r, column0, reinterpret_cast<Bits*>(shared) + place);
    }
    auto* const bias = reinterpret_cast<float*>(shared + p.bias_at);
    for (int column = threadIdx.x; column < FirstLayer<Math>::columns; column += first_threads) {
        const bool exists = p.conv.output.bias && column0 + column < p.conv.output.columns;
        bias[column] =
            exists ? Math::load(static_cast<const typename Math::Storage*>(p.conv.output.bias)[column0 + column]) : 0.f;
    }
}

// Some rows of the masked patch, and their valid pixels as one word a row. All loads are issued before the first is
// needed: one latency for all, not one a row. For that x is read in holes too, and dropped by a select: what it holds
// there does not matter.
template <class Math>
PCONV_DEV void stage_patch_rows(const FirstLayerParams& p, const TileAt& at, int first_row, uint8_t* shared) {
    using Bits = typename FirstLayer<Math>::Bits;
    const GemmParams& conv = p.conv;
    const int lane = threadIdx.x % 32, channels = conv.source_channels;
    const int plane = conv.source_h * conv.source_w;
    const int pixel_step = conv.output.nchw ? 1 : channels, channel_step = conv.output.nchw ? plane : 1;
    const auto* const source = static_cast<const Bits*>(conv.source) + int64_t(at.n) * plane * channels;
    const uint8_t* const mask = conv.mask.bytes ? conv.mask.bytes + at.n * conv.mask.batch_step : nullptr;
    uint32_t valid = 0;  // a bit a pixel
    Run<Bits, 4> loaded[rows_at_once][patch_chunks];
#pragma unroll
    for (int i = 0; i < rows_at_once; ++i)
#pragma unroll
        for (int chunk = 0; chunk < patch_chunks; ++chunk) {
            const int row = first_row + i * first_warps, column = chunk * 32 + lane, y = at.y0 + row,
                      x = at.x0 + column;
            const bool inside = row < p.patch_rows && column < p.patch_width && unsigned(y) < unsigned(conv.source_h) &&
                                unsigned(x) < unsigned(conv.source_w);
            const int pixel = inside ? y * conv.source_w + x : 0;
#pragma unroll
            for (int c = 0; c < 4; ++c)
                loaded[i][chunk].values[c] =
                    inside && c < channels ? __ldg(source + pixel * pixel_step + c * channel_step) : Bits(0);
            valid |= uint32_t(inside && (!mask || __ldg(mask + pixel) != 0)) << (i * patch_chunks + chunk);
        }
    auto* const words = reinterpret_cast<uint64_t*>(shared + p.valid_at);
#pragma unroll
    for (int i = 0; i < rows_at_once; ++i) {
        const int row = first_row + i * first_warps;
        if (row >= p.patch_rows) break;  // the whole warp
        uint64_t word = 0;
#pragma unroll
        for (int chunk = 0; chunk < patch_chunks; ++chunk) {
            const int column = chunk * 32 + lane;
            const bool kept_here = valid >> (i * patch_chunks + chunk) & 1;
            word |= uint64_t(__ballot_sync(0xffffffffu, kept_here)) << (chunk * 32);
            if (column >= p.patch_pixels) continue;
            Run<Bits, 4> kept;
#pragma unroll
            for (int c = 0; c < 4; ++c)
                kept.values[c] = kept_here ? as_operand<Math>(loaded[i][chunk].values[c]) : Bits(0);
            uint8_t* const pixel =
                shared + p.patch_at + (row * p.patch_pixels + column) * FirstLayer<Math>::pixel_bytes;
            *reinterpret_cast<Run<Bits, 4>*>(pixel) = kept;
        }
        if (lane == 0) words[row] = word;
    }
}

template <class Math>
PCONV_DEV void stage_patch(const FirstLayerParams& p, const TileAt& at, uint8_t* shared) {
#pragma unroll 1
    for (int row = threadIdx.x / 32; row < p.patch_rows; row += rows_at_once * first_warps)
        stage_patch_rows<Math>(p, at, row, shared);
}

}  // namespace pconv::cuda
