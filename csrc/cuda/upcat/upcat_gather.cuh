// The gather of the decoder stage's forward: two blocks of channels with a source, a mask and filters each, in the
// tables and the pipeline of the implicit matrix product (gemm/prologue.cuh, gemm/loader.cuh).
//
//   block 0   low, on its small grid    phases: 4 taps and filters of their own for each parity of the output pixel
//                                       direct: 9 taps and the weight itself, low pixel (y >> 1, x >> 1) of each
//   block 1   skip                      9 taps
//
// Phases: a tile's rows are small pixels (i, j) of one phase (a, b) = output pixels (2 i + a, 2 j + b), and the four
// phases of a place are neighbouring blocks of the grid: they meet in the L2 cache. Direct: a tile must not read the
// filters for one phase alone, so four neighbouring rows are one small pixel's output pixels.
#pragma once

#include "../gemm/kernel.cuh"
#include "upcat.h"
#include "upcat_phases.cuh"

namespace pconv::cuda {

constexpr int skip_taps = 9;

PCONV_DEV int low_taps(const UpcatParams& p) { return p.direct ? 9 : 4; }

// The phase 2 a + b of a tile's rows; direct: of one row.
PCONV_DEV int phase_of(const UpcatParams& p, int row) { return p.direct ? row & 3 : int(blockIdx.x & 3); }

// Which low row a tap's row reads, relative to i, in a phase a; columns and b the same.
template <bool direct>
PCONV_DEV int low_shift(int tap_row, int a) {
    return direct ? ((a + tap_row + 1) >> 1) - 1  // output row 2 i + a + r - 1, halved downwards
                  : tap_row - 1 + a;
}

// Which low pixel a tap of phase (a, b) reads, relative to (i, j).
PCONV_DEV void find_low_tap(const UpcatParams& p, int tap, int phase, int& y, int& x) {
    const int a = phase / 2, b = phase % 2;
    y = p.direct ? low_shift<true>(tap / 3, a) : low_shift<false>(tap / 2, a);
    x = p.direct ? low_shift<true>(tap % 3, b) : low_shift<false>(tap % 2, b);
}

// How many rows of the doubled image a tap's row stands for, columns the same. They are all inside it or all outside,
// like the small one.
template <bool direct>
PCONV_DEV int rows_of_low_tap(int tap_row, int a) {
    return direct ? 1 : taps_together(a, tap_row);
}

// A row's window of side x side taps in a block's image, at pixels (y[.], x[.]). No branch around a load: a tap outside
// the image loads the byte of the nearest pixel, and without a mask every tap for the source's first byte,
// which is unused. So all loads of a row are in flight together, and their latency is paid once.
template <int side>
struct MaskWindow {
    uint32_t inside = 0;  // a bit a tap
    bool masked;
    uint8_t bytes[side * side];

    PCONV_DEV MaskWindow(const UpcatBlock& block, int n, const int (&y)[side], const int (&x)[side])
        : masked(block.mask.bytes != nullptr) {
        const uint8_t* const image =
            masked ? block.mask.bytes + n * block.mask.batch_step : static_cast<const uint8_t*>(block.source);
        const int last_y = masked ? block.h - 1 : 0, last_x = masked ? block.w - 1 : 0;
        int row[side], column[side];
        uint32_t columns_inside = 0;
#pragma unroll
        for (int i = 0; i < side; ++i) {
            row[i] = min(max(y[i], 0), last_y) * block.w;
            column[i] = min(max(x[i], 0), last_x);
            columns_inside |= unsigned(x[i]) < unsigned(block.w) ? 1u << i : 0u;
        }
#pragma unroll
        for (int tap = 0; tap < side * side; ++tap) bytes[tap] = __ldg(image + (row[tap / side] + column[tap % side]));
#pragma unroll
        for (int i = 0; i < side; ++i) inside |= unsigned(y[i]) < unsigned(block.h) ? columns_inside << i * side : 0u;
    }

    // The taps whose pixels are there and valid.
    PCONV_DEV uint32_t reads() const {
        uint32_t valid = masked ? 0 : ~0u;
#pragma unroll
        for (int tap = 0; tap < side * side; ++tap) valid |= bytes[tap] ? 1u << tap : 0u;
        return valid & inside;
    }
};

// One row: its bits of every tap (voted into words by the warp), its exact count, and where it is stored.
template <bool direct, class Tile>
PCONV_DEV void describe_upcat_row(
    const UpcatParams& p, Tables<Tile>& tables, int position, int row, int phase, const Place& place) {
    constexpr int low_side = direct ? 3 : 2, low_taps = low_side * low_side;
    const int a = phase / 2, b = phase % 2, out_y = 2 * place.i + a, out_x = 2 * place.j + b;
    int low_y[low_side], low_x[low_side], skip_y[3], skip_x[3];
#pragma unroll
    for (int i = 0; i < low_side; ++i)
        low_y[i] = place.i + low_shift<direct>(i, a), low_x[i] = place.j + low_shift<direct>(i, b);
#pragma unroll
    for (int i = 0; i < 3; ++i) skip_y[i] = out_y + i - 1, skip_x[i] = out_x + i - 1;
    // Before the first vote, which would wait for its own byte.
    const MaskWindow<low_side> low(p.blocks[0], place.n, low_y, low_x);
    const MaskWindow<3> skip(p.blocks[1], place.n, skip_y, skip_x);
    const uint32_t exists = place.inside ? ~0u : 0u, low_bits = low.reads() & exists, skip_bits = skip.reads() & exists;

    uint32_t words[low_taps + skip_taps];
    int pixels = 0;
#pragma unroll
    for (int tap = 0; tap < low_taps; ++tap) {
        const bool ok = low_bits >> tap & 1;
        pixels += ok ? rows_of_low_tap<direct>(tap / low_side, a) * rows_of_low_tap<direct>(tap % low_side, b) : 0;
        words[tap] = __ballot_sync(0xffffffffu, ok);
    }
#pragma unroll
    for (int tap = 0; tap < skip_taps; ++tap) words[low_taps + tap] = __ballot_sync(0xffffffffu, skip_bits >> tap & 1);
    if (position % 32 == 0) {
#pragma unroll
        for (int tap = 0; tap < low_taps + skip_taps; ++tap) tables.valid[tap][position / 32] = words[tap];
    }
    const int count = pixels * p.packing.first[1] + __popc(skip_bits) * (p.packing.first[2] - p.packing.first[1]);
    tables.row_source[row] = (place.n * p.blocks[0].h + place.i) * p.blocks[0].w + place.j;
    tables.row_image[row] = place.n;
    tables.row_out[row] = place.inside ? out_y * p.output.w + out_x : -1;
    tables.row_scale[row] = count > 0 ? float(p.output.full) / float(count) : 0.f;
}

template <class Tile>
PCONV_DEV void list_live_upcat_taps(const UpcatParams& p, Tables<Tile>& tables, int lane, int depth) {
    const int phase = phase_of(p, 0);
    const int end = list_live_taps(tables, 0, 0, low_taps(p), 0, lane, [&](int at, int tap) {
        int y, x;
        find_low_tap(p, tap, phase, y, x);  // direct: the loader knows its rows' phase
        tables.live_source[at] = (y * p.blocks[0].w + x) * p.blocks[0].channels;
        tables.live_filter[at] = tap * p.blocks[0].filter_channels;
    });
    const int all = list_live_taps(tables, 1, low_taps(p), skip_taps, end, lane, [&](int at, int tap) {
        tables.live_source[at] = ((tap / 3 - 1) * p.blocks[1].w + tap % 3 - 1) * p.blocks[1].channels;
        tables.live_filter[at] = tap * p.blocks[1].filter_channels;
    });
    const int low_steps = steps_through(p, 0, end, depth);
    if (lane == 0)
        tables.step_end[0] = low_steps, tables.step_end[1] = low_steps + steps_through(p, 1, all - end, depth);
}

// Fills the tables; ends with a barrier. depth: channels of a K step.
template <class Tile>
PCONV_DEV void prepare_upcat_tile(const UpcatParams& p, Tables<Tile>& tables, int block, int depth) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int unit = warp; unit < Tables<Tile>::words; unit += Tile::warps) {
        const int position = unit * 32 + lane;
        const int row = position / Tile::rows_per_thread + position % Tile::rows_per_thread * Tile::row_step;
        const int phase = phase_of(p, row), h = p.blocks[0].h, w = p.blocks[0].w;
        if (p.direct) {
            const Place place = place_of<Tile::rows / 4>(p, block, row / 4, h, w);
            describe_upcat_row<true>(p, tables, position, row, phase, place);
        } else {
            const Place place = place_of<Tile::rows>(p, block / 4, row, h, w);
            describe_upcat_row<false>(p, tables, position, row, phase, place);
        }
    }
    __syncthreads();
    if (warp == 0) list_live_upcat_taps(p, tables, lane, depth);
    __syncthreads();
}

// What a thread copies for the K loop's step; what depends on the block changes with it.
template <class Math, class Tile>
struct UpcatLoader : LoopPlace<Math, Tile> {
    using Base = LoopPlace<Math, Tile>;
    using Base::tables, Base::block, Base::first_channel, Base::next, Base::depth;
    using T = typename Math::Storage;

    const UpcatParams& p;
    const int chunk, row0, column0;
    int source_offset[Tile::rows_per_thread];
    const T *source, *filters;
    int filter_step;
    bool exists;  // this and the following: of the coming step
    uint32_t bits;
    int source_shift, filter_shift;

    PCONV_DEV UpcatLoader(const UpcatParams& params, const Tables<Tile>& prepared, int thread, int column)
        : Base(params, prepared), p(params), chunk(thread % 8), row0(thread / 8), column0(column) {
        enter_block();
    }

    PCONV_DEV void enter_block() {
        const UpcatBlock& own = p.blocks[block];
#pragma unroll
        for (int i = 0; i < Tile::rows_per_thread; ++i) {
            const int row = row0 + i * Tile::row_step;
            const int skip_pixel = tables.row_image[row] * p.output.h * p.output.w + tables.row_out[row];
            source_offset[i] = (block == 0 ? tables.row_source[row] : skip_pixel) * own.channels + chunk * Math::chunk;
        }
        source = static_cast<const T*>(own.source);
        filter_step = (block == 0 ? low_taps(p) : skip_taps) * own.filter_channels;
        filters = static_cast<const T*>(own.filters) + int64_t(first_filter() + row0) * filter_step +
                  own.first_channel + chunk * Math::chunk;
    }

    // The tile's first one; those of the phases follow one another.
    PCONV_DEV int first_filter() const {
        return (block == 0 && !p.direct ? phase_of(p, 0) * p.output.columns : 0) + column0;
    }

    // The coming step's filters as TMA fetches them.
    PCONV_DEV FilterBox filter_box() const {
        const int tap = tables.live_tap[next] - (block == 0 ? 0 : low_taps(p));
        return {block, p.blocks[block].first_channel + first_channel, tap, first_filter()};
    }

    PCONV_DEV void seek(int step) {
        Base::seek(step);
        enter_block();
        look_up();
    }

    PCONV_DEV void advance() {
        const int before = block;
        Base::advance();
        if (block != before) enter_block();
        look_up();
    }

    // As in gemm/loader.cuh: what the coming step needs of the tables.
    PCONV_DEV void look_up() {
        const bool is_step = next < this->live_end;
        const int index = is_step ? next : 0, tap = is_step ? tables.live_tap[index] : 0;
        exists = is_step && first_channel + chunk * Math::chunk < this->block_channels;
        bits = exists ? row_bits(tables, tap, row0) : 0;
        filter_shift = tables.live_filter[index] + first_channel;
        source_shift = tables.live_source[index] + first_channel;  // from a row's pixel to the tap's, in elements
        if (p.direct && block == 0) {
            int y, x;
            find_low_tap(p, tap, phase_of(p, row0), y, x);
            source_shift = (y * p.blocks[0].w + x) * p.blocks[0].channels + first_channel;
        }
    }

    PCONV_DEV void load_source(uint32_t stage) const {
        copy_rows<Tile>(stage + place_in_tile(row0, chunk), source, source_offset, source_shift, bits);
    }

    PCONV_DEV void load(uint32_t stage) const {
        load_source(stage);
        copy_filters<Tile>(
            stage + Tile::rows * 128 + place_in_tile(row0, chunk), filters + filter_shift, filter_step,
            exists ? p.output.columns - column0 - row0 : 0);
    }
};

template <class Math, class Tile>
struct Gather<Pass::upcat, Math, Tile, Filters::k_major> {
    using Params = UpcatParams;
    using Load = UpcatLoader<Math, Tile>;
    static_assert(Tile::row_step % 4 == 0 && Tile::columns >= Tile::row_step, "a thread's rows have one phase");

    PCONV_DEV static void prepare(const Params& p, Tables<Tile>& tables, int block, int) {
        prepare_upcat_tile(p, tables, block, Load::depth);
    }

    static dim3 grid(const Params& p) {
        const int h = p.blocks[0].h, w = p.blocks[0].w, rows = p.direct ? Tile::rows / 4 : Tile::rows;
        const int64_t tiles = p.tiling.patch_w > 0
                                  ? int64_t(p.output.n) * ((h + p.tiling.patch_h - 1) / p.tiling.patch_h) *
                                        ((w + p.tiling.patch_w - 1) / p.tiling.patch_w)
                                  : (int64_t(p.output.n) * h * w + rows - 1) / rows;
        return dim3(
            unsigned(p.direct ? tiles : 4 * tiles), (p.output.columns + Tile::columns - 1) / Tile::columns,
            p.tiling.splits);
    }
};

}  // namespace pconv::cuda
