// The masked convolution as a matrix product whose left operand is gathered: fprop and dgrad (see params.h).
//
// The mask is a predicate of the load: a cp.async with source size 0 writes 16 zero bytes and reads nothing, so holes
// and the image's border cost no pass, no register and no bandwidth. The K loop runs over (block of channels, chunk of
// 128 bytes, live tap), taps innermost: the pixels of a tile's neighbouring taps overlap and are found in the L1 cache.
#pragma once

#include "fragments.cuh"
#include "prologue.cuh"

namespace pconv::cuda {

// Where the K loop stands.
template <class Math, class Tile>
struct LoopPlace {
    static constexpr int depth = 8 * Math::chunk;  // channels of a K step

    const ProductParams& p;
    const Tables<Tile>& tables;
    int block = 0, first_channel = 0, next = 0;            // next: entry of the live list
    int block_channels = 0, live_begin = 0, live_end = 0;  // of the block

    PCONV_DEV LoopPlace(const ProductParams& params, const Tables<Tile>& prepared) : p(params), tables(prepared) {}

    PCONV_DEV int steps() const { return tables.step_end[p.packing.blocks - 1]; }

    PCONV_DEV void enter(int b) {
        block = b;
        block_channels = p.packing.start[b + 1] - p.packing.start[b];
        live_begin = b > 0 ? tables.live_end[b - 1] : 0;
        live_end = tables.live_end[b];
    }

    // Unrolled, here and below: ptxas 13.0 gave a loop whose counter indexes the tables a wrong address on sm_90a, so
    // that splits of products with several blocks began at a wrong place (seen on an H100, never in emulation).
    PCONV_DEV void seek(int step) {
        int own = 0, begin = 0;
#pragma unroll
        for (int b = 0; b < max_blocks - 1; ++b)
            if (b < p.packing.blocks - 1 && step >= tables.step_end[b]) own = b + 1, begin = tables.step_end[b];
        enter(own);
        first_channel = 0, next = live_begin;
        if (step == begin) return;  // most blocks: no divisions
        const unsigned live = live_end - live_begin, taps = p.tiling.taps_per_step;
        const unsigned across = live > taps ? (live + taps - 1) / taps : 1, chunk = unsigned(step - begin) / across;
        first_channel = chunk * depth;
        next += (step - begin - chunk * across) * taps;
    }

    PCONV_DEV void advance() {
        next += p.tiling.taps_per_step;
        if (next < live_end) return;
        first_channel += depth;
#pragma unroll
        for (int b = 0; b < max_blocks - 1; ++b)
            if (first_channel >= block_channels && block < p.packing.blocks - 1) {
                enter(block + 1);
                first_channel = live_end > live_begin ? 0 : block_channels;  // a block that no row needs is passed over
            }
        next = live_begin;
    }
};

// This thread's 16-byte pieces of a tile of `rows` rows: every row_step-th row from row0 on, always the same chunk of
// it, and so the same swizzle.
PCONV_DEV uint32_t place_in_tile(int row0, int chunk) { return row0 * 128 + ((chunk ^ (row0 & 7)) << 4); }

// The bits of a thread's rows, side by side from bit 0 on.
template <class Tile>
PCONV_DEV uint32_t row_bits(const Tables<Tile>& tables, int tap, int row0) {
    const int bit = row0 * Tile::rows_per_thread, word = bit / 32;
    if constexpr (32 % Tile::rows_per_thread == 0) return tables.valid[tap][word] >> bit % 32;
    // They may begin in one word and end in the next.
    return __funnelshift_r(
        tables.valid[tap][word], tables.valid[tap][min(word + 1, Tables<Tile>::words - 1)], bit % 32);
}

// Gathered rows, `shift` elements from their offsets; bit i of `bits` says whether row i is read.
template <class Tile, class T>
PCONV_DEV void copy_rows(
    uint32_t place, const T* source, const int (&offset)[Tile::rows_per_thread], int shift, uint32_t bits) {
#pragma unroll
    for (int i = 0; i < Tile::rows_per_thread; ++i) {
        const uint32_t to = place + i * (Tile::row_step * 128);
        if (Tile::gathers_through_l1)
            cp_async_ca_16(to, source + (offset[i] + shift), bits >> i & 1);
        else
            cp_async_cg_16(to, source + (offset[i] + shift), bits >> i & 1);
    }
}

// K-major filters, rows of shared memory are columns of the product; `left` of them exist from this thread's first on.
template <class Tile, class T>
PCONV_DEV void copy_filters(uint32_t place, const T* filter, int64_t filter_step, int left) {
    constexpr int count = Tile::columns / Tile::row_step > 0 ? Tile::columns / Tile::row_step : 1;
#pragma unroll
    for (int i = 0; i < count; ++i)
        cp_async_cg_16(
            place + i * (Tile::row_step * 128), filter + i * Tile::row_step * filter_step, i * Tile::row_step < left);
}

// A step's filters as TMA fetches them: which tensor of [filters][taps][channels], and where its box begins.
struct FilterBox {
    int tensor, channel, tap, filter;
};

// What a thread copies for the K loop's step. The tables are looked up a step ahead, so that the products of the step
// before hide it.
template <class Math, class Tile, Filters filters>
struct Loader : LoopPlace<Math, Tile> {
    using Base = LoopPlace<Math, Tile>;
    using Base::depth, Base::tables, Base::block, Base::first_channel, Base::next;
    using T = typename Math::Storage;
    // MN-major filters: a tile of `depth` channels x columns, in panels of 64 columns.
    static constexpr int chunks_across = Tile::columns / Math::chunk, channel_step = Tile::threads / chunks_across;
    static constexpr int channel_rows = depth / channel_step > 0 ? depth / channel_step : 1;

    const GemmParams& p;
    const int chunk, row0, column0;
    int source_offset[Tile::rows_per_thread];
    int64_t filter_step;  // elements from one filter row to the next
    int tap_of_chunk, channel_of_chunk;
    // Of the coming step: whether this thread's chunk exists, its rows' bits, and where its tap lies.
    bool exists;
    uint32_t bits;
    int source_shift, filter_shift, packed_channel;

    PCONV_DEV Loader(const GemmParams& params, const Tables<Tile>& prepared, int thread, int column)
        : Base(params, prepared), p(params), chunk(thread % 8), row0(thread / 8), column0(column) {
#pragma unroll
        for (int i = 0; i < Tile::rows_per_thread; ++i)
            source_offset[i] = tables.row_source[row0 + i * Tile::row_step] * p.source_channels;
        filter_step = int64_t(p.window.r * p.window.s) * p.filter_channels;
        // Few channels: a K step takes several taps, each thread the one that its chunk belongs to.
        const int chunks_per_tap = 8 / p.tiling.taps_per_step;
        tap_of_chunk = chunk / chunks_per_tap;
        channel_of_chunk = chunk % chunks_per_tap * Math::chunk;
    }

    PCONV_DEV void look_up() {
        const int entry = next + tap_of_chunk, channel = first_channel + channel_of_chunk;
        exists = entry < this->live_end && channel < this->block_channels;
        // A thread whose own chunk is missing may still copy filters of the first tap; past the last step is nothing.
        const int index = exists ? entry : next < this->live_end ? next : 0;
        bits = exists ? row_bits(tables, tables.live_tap[index], row0) : 0;
        packed_channel = p.packing.start[block] + channel;
        source_shift = tables.live_source[index] + packed_channel;
        filter_shift = tables.live_filter[index];
    }

    PCONV_DEV void seek(int step) {
        Base::seek(step);
        look_up();
    }

    PCONV_DEV void advance() {
        Base::advance();
        look_up();
    }

    PCONV_DEV void load_source(uint32_t stage) const {
        copy_rows<Tile>(
            stage + place_in_tile(row0, chunk), static_cast<const T*>(p.source), source_offset, source_shift, bits);
    }

    PCONV_DEV FilterBox filter_box() const {
        const int tap = tables.live_tap[next] - block * p.window.r * p.window.s;
        const int channel = p.packing.start[block] + first_channel;
        return {0, channel, tap, column0};
    }

    PCONV_DEV void load(uint32_t stage) const {
        load_source(stage);
        if (filters == Filters::k_major)
            load_filters_by_column(stage + Tile::rows * 128, filter_shift + packed_channel);
        else
            load_filters_by_channel(stage + Tile::rows * 128, filter_shift);
    }

    // Rows of shared memory are columns of the product.
    PCONV_DEV void load_filters_by_column(uint32_t tile, int shift) const {
        if (Tile::columns < Tile::row_step && row0 >= Tile::columns) return;
        const T* const filter = static_cast<const T*>(p.filters) + (column0 + row0) * filter_step + shift;
        const int left = exists ? p.output.columns - column0 - row0 : 0;
        copy_filters<Tile>(tile + place_in_tile(row0, chunk), filter, filter_step, left);
    }

    // Filters read as they lie, for dgrad: rows of shared memory are channels of the reduction, ldmatrix transposes.
    PCONV_DEV void load_filters_by_channel(uint32_t tile, int shift) const {
        const int thread = row0 * 8 + chunk, column_chunk = thread % chunks_across, channel = thread / chunks_across;
        const int column = column0 + column_chunk * Math::chunk;
        const T* const filter =
            static_cast<const T*>(p.filters) + (first_channel + channel) * filter_step + shift + column;
        const int left = column < p.filter_channels ? p.filter_rows - first_channel - channel : 0;
        const uint32_t place =
            column_chunk / 8 * (64 * 128) + channel * 128 + (((column_chunk & 7) ^ (channel & 7)) << 4);
#pragma unroll
        for (int i = 0; i < channel_rows; ++i)
            cp_async_cg_16(
                tile + place + i * (channel_step * 128), filter + i * channel_step * filter_step,
                i * channel_step < left);
    }
};

}  // namespace pconv::cuda
