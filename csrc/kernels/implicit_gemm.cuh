// The masked convolution as a matrix product whose left operand is gathered: fprop and dgrad (see gemm_params.h).
//
// The mask is a predicate of the load: a cp.async with source size 0 writes 16 zero bytes and reads nothing, so holes
// and the image's border cost no pass, no register and no bandwidth. The K loop runs over (block of channels, chunk of
// 128 bytes, live tap), taps innermost: the pixels of a tile's neighbouring taps overlap and are found in the L1 cache.
#pragma once

#include "fragments.cuh"
#include "gather.cuh"

namespace pconv::cuda {

// Where the K loop stands.
template <class Math, class Tile>
struct LoopPlace {
    static constexpr int depth = 8 * Math::chunk;  // channels of a K step

    const GemmParams& p;
    const Tables<Tile>& tables;
    int block = 0, first_channel = 0, next = 0;  // next: entry of the live list

    PCONV_DEV LoopPlace(const GemmParams& params, const Tables<Tile>& prepared) : p(params), tables(prepared) {}

    PCONV_DEV int live_begin(int b) const { return b > 0 ? tables.live_end[b - 1] : 0; }
    PCONV_DEV int channels_of(int b) const { return p.packing.start[b + 1] - p.packing.start[b]; }
    PCONV_DEV int tap_steps(int b) const {
        return (tables.live_end[b] - live_begin(b) + p.taps_a_step - 1) / p.taps_a_step;
    }
    PCONV_DEV int steps_of(int b) const { return tap_steps(b) * ((channels_of(b) + depth - 1) / depth); }
    PCONV_DEV int steps() const {
        int sum = 0;
        for (int b = 0; b < p.packing.blocks; ++b) sum += steps_of(b);
        return sum;
    }

    PCONV_DEV void seek(int step) {
        block = 0;
        while (block < p.packing.blocks - 1 && step >= steps_of(block)) step -= steps_of(block++);
        const int across = tap_steps(block) > 0 ? tap_steps(block) : 1;
        first_channel = step / across * depth;
        next = live_begin(block) + step % across * p.taps_a_step;
    }

    PCONV_DEV void advance() {
        next += p.taps_a_step;
        if (next < tables.live_end[block]) return;
        first_channel += depth;
        while (first_channel >= channels_of(block) && block < p.packing.blocks - 1) {
            ++block;
            // A block that no row needs is passed over.
            first_channel = tables.live_end[block] > live_begin(block) ? 0 : channels_of(block);
        }
        next = live_begin(block);
    }
};

// This thread's 16-byte pieces of a tile of `rows` rows: every row_step-th row from row0 on, always the same chunk of
// it, and so the same swizzle.
PCONV_DEV uint32_t place_in_tile(int row0, int chunk) { return row0 * 128 + ((chunk ^ (row0 & 7)) << 4); }

// Gathered rows, `shift` elements from their offsets; bit i of `bits` says whether row i is read.
template <class Tile, class T>
PCONV_DEV void copy_rows(
    uint32_t place, const T* source, const int (&offset)[Tile::rows_a_thread], int shift, uint32_t bits) {
#pragma unroll
    for (int i = 0; i < Tile::rows_a_thread; ++i)
        cp_async_ca_16(place + i * (Tile::row_step * 128), source + (offset[i] + shift), bits >> i & 1);
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

// What a thread copies for the K loop's step.
template <class Math, class Tile, Filters filters>
struct Loader : LoopPlace<Math, Tile> {
    using Base = LoopPlace<Math, Tile>;
    using Base::depth, Base::p, Base::tables, Base::block, Base::first_channel, Base::next;
    using T = typename Math::Storage;
    // MN-major filters: a tile of `depth` channels x columns, in panels of 64 columns.
    static constexpr int chunks_across = Tile::columns / Math::chunk, channel_step = Tile::threads / chunks_across;
    static constexpr int channel_rows = depth / channel_step > 0 ? depth / channel_step : 1;

    const int chunk, row0, column0;
    int source_offset[Tile::rows_a_thread];
    int64_t filter_step;  // elements from one filter row to the next
    int tap_of_chunk, channel_of_chunk;

    PCONV_DEV Loader(const GemmParams& params, const Tables<Tile>& prepared, int thread, int column)
        : Base(params, prepared), chunk(thread % 8), row0(thread / 8), column0(column) {
#pragma unroll
        for (int i = 0; i < Tile::rows_a_thread; ++i)
            source_offset[i] = tables.row_source[row0 + i * Tile::row_step] * p.source_channels;
        filter_step = int64_t(p.r * p.s) * p.filter_channels;
        // Few channels: a K step takes several taps, each thread the one that its chunk belongs to.
        const int chunks_a_tap = 8 / p.taps_a_step;
        tap_of_chunk = chunk / chunks_a_tap;
        channel_of_chunk = chunk % chunks_a_tap * Math::chunk;
    }

    // What this thread copies in the coming step: an entry of the live list and a channel as it lies in memory.
    struct Spot {
        int index, packed_channel;
        bool exists;
    };

    PCONV_DEV Spot spot() const {
        const int entry = next + tap_of_chunk, channel = first_channel + channel_of_chunk;
        const bool exists = entry < tables.live_end[block] && (PCONV_PLANT(9) || channel < this->channels_of(block));
        return {exists ? entry : next, p.packing.start[block] + channel, exists};
    }

    PCONV_DEV void load_source(uint32_t stage, const Spot& at) const {
        // This thread's rows' bits of this tap.
        const int bit = row0 * Tile::rows_a_thread;
        const uint32_t bits = at.exists ? tables.valid[tables.live_tap[at.index]][bit / 32] >> bit % 32 : 0;
        const T* const source = static_cast<const T*>(p.source);
        const int shift = tables.live_source[at.index] + at.packed_channel;
        copy_rows<Tile>(stage + place_in_tile(row0, chunk), source, source_offset, shift, bits);
    }

    PCONV_DEV void load_source(uint32_t stage) const { load_source(stage, spot()); }

    PCONV_DEV FilterBox filter_box() const {
        const int tap = PCONV_PLANT(49) ? next : tables.live_tap[next] - block * p.r * p.s;
        const int channel = (PCONV_PLANT(50) ? 0 : p.packing.start[block]) + first_channel;
        return {0, channel, tap, PCONV_PLANT(51) ? 0 : column0};
    }

    PCONV_DEV void load(uint32_t stage) const {
        const Spot at = spot();
        load_source(stage, at);
        if (filters == Filters::k_major)
            load_filters_by_column(
                stage + Tile::rows * 128, tables.live_filter[at.index] + at.packed_channel, at.exists);
        else
            load_filters_by_channel(stage + Tile::rows * 128, tables.live_filter[at.index]);
    }

    // Rows of shared memory are columns of the product.
    PCONV_DEV void load_filters_by_column(uint32_t tile, int shift, bool exists) const {
        if (Tile::columns < Tile::row_step && row0 >= Tile::columns) return;
        const T* const filter = static_cast<const T*>(p.filters) + (column0 + row0) * filter_step + shift;
        const int left = exists ? p.columns - column0 - row0 : 0;
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
