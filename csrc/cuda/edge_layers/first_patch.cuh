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

// A lane's column of the masked patch: where it comes from, and where it goes. planes: an NCHW source.
template <class Math, bool planes>
struct PatchColumn {
    using Bits = typename FirstLayer<Math>::Bits;

    struct Pixel {
        Bits values[4];
        int byte;  // of the mask, 0 outside; nothing looks at it before all of a round's loads are under way
    };

    const FirstLayerParams& p;
    const int column, first_y, width, channels, plane;
    const bool exists, is_read;
    const Bits* source;   // of the patch's first row: it may lie outside, and is read where it does not
    const uint8_t* mask;  // the same, or nullptr

    PCONV_DEV PatchColumn(const FirstLayerParams& params, const TileAt& at, int number)
        : p(params),
          column(number),
          first_y(at.y0),
          width(params.conv.source_w),
          channels(params.conv.source_channels),
          plane(params.conv.source_h * params.conv.source_w),
          exists(number < params.patch_pixels),
          is_read(number < params.patch_width && unsigned(at.x0 + number) < unsigned(params.conv.source_w)) {
        const int first = at.y0 * width + at.x0 + number;
        source = static_cast<const Bits*>(p.conv.source) + int64_t(at.n) * plane * channels +
                 first * (planes ? 1 : channels);
        mask = p.conv.mask.bytes ? p.conv.mask.bytes + at.n * p.conv.mask.batch_step + first : nullptr;
    }

    // It is read in holes too, and dropped by a select: what it holds there does not matter.
    PCONV_DEV Pixel load(int row) const {
        const bool inside = is_read & (row < p.patch_rows) & (unsigned(first_y + row) < unsigned(p.conv.source_h));
        const Bits* const own = source + row * width * (planes ? 1 : channels);
        Pixel pixel{{}, inside};
#pragma unroll
        for (int c = 0; c < 4; ++c)
            if (inside & (c < channels)) pixel.values[c] = __ldg(own + (planes ? c * plane : c));
        if (inside & (mask != nullptr)) pixel.byte = __ldg(mask + row * width);
        return pixel;
    }

    PCONV_DEV void keep(int row, const Pixel& pixel, uint8_t* patch) const {
        if (row >= p.patch_rows || !exists) return;
        Run<Bits, 4> kept;
#pragma unroll
        for (int c = 0; c < 4; ++c) kept.values[c] = pixel.byte != 0 ? as_operand<Math>(pixel.values[c]) : Bits(0);
        *reinterpret_cast<Run<Bits, 4>*>(patch + (row * p.patch_pixels + column) * FirstLayer<Math>::pixel_bytes) =
            kept;
    }
};

// The masked patch, and of each row a word of its valid pixels. A warp has the first 32 columns of a row at a time, and
// the last few, six in the paper's first layer, of four rows. All loads are issued before the first is needed: one
// latency for all.
template <class Math, bool planes>
PCONV_DEV void stage_patch(const FirstLayerParams& p, const TileAt& at, uint8_t* shared) {
    constexpr int rest = 8, down = 32 / rest, rounds = (max_patch + first_warps - 1) / first_warps,
                  rest_rounds = (max_patch + first_warps * down - 1) / (first_warps * down);
    static_assert(max_patch <= 32 + rest, "these are all columns");
    const int lane = threadIdx.x % 32, row0 = threadIdx.x / 32, rest_row0 = row0 * down + lane / rest;
    using Column = PatchColumn<Math, planes>;
    const Column column(p, at, lane), last(p, at, 32 + lane % rest);
    typename Column::Pixel pixels[rounds], rest_pixels[rest_rounds];
#pragma unroll
    for (int i = 0; i < rounds; ++i) pixels[i] = column.load(row0 + i * first_warps);
#pragma unroll
    for (int i = 0; i < rest_rounds; ++i) rest_pixels[i] = last.load(rest_row0 + i * first_warps * down);
    auto* const halves = reinterpret_cast<uint32_t*>(shared + p.valid_at);  // of the words
#pragma unroll
    for (int i = 0; i < rounds; ++i) {
        const int row = row0 + i * first_warps;
        const uint32_t bits = __ballot_sync(0xffffffffu, pixels[i].byte != 0);
        column.keep(row, pixels[i], shared + p.patch_at);
        if (lane == 0 && row < p.patch_rows) halves[2 * row] = bits;
    }
#pragma unroll
    for (int i = 0; i < rest_rounds; ++i) {
        const int row = rest_row0 + i * first_warps * down;
        const uint32_t bits = __ballot_sync(0xffffffffu, rest_pixels[i].byte != 0) >> lane / rest * rest;
        last.keep(row, rest_pixels[i], shared + p.patch_at);
        if (lane % rest == 0 && row < p.patch_rows) halves[2 * row + 1] = bits & ((1u << rest) - 1);
    }
}

}  // namespace pconv::cuda
