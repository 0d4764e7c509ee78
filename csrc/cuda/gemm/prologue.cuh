// The prologue of a tile: everything that depends on masks and geometry, worked out once, so that the K loop is left
// with one bit and one addition a 16-byte copy.
//
//   valid[tap]   one bit a row: the tap's pixel lies in the image and is valid
//   live list    the taps that any row of the tile needs; the others are never visited
//   scale        sum(1) / sum(mask) of the row's window, exact integers until the division
#pragma once

#include "../plan/tile_types.h"
#include "../ptx/sm80.cuh"
#include "params.h"

namespace pconv::cuda {

// Where a tap looks, relative to a row's pixel.
struct alignas(8) Tap {
    int y, x;
};
constexpr int taps_at_once = 10;  // that a row looks at together: a 3x3 window, and two taps in 16 bytes

// Where the bounds check of every row drops it.
PCONV_DEV Tap far_outside() { return {-(1 << 30), -(1 << 30)}; }

template <class Tile>
struct Tables {
    static constexpr int words = Tile::rows / 32;
    // Bit row0 * rows_per_thread + i belongs to row row0 + i * row_step: a thread finds its rows' bits side by side.
    uint32_t valid[max_taps][words];
    alignas(16) Tap taps[(max_taps + taps_at_once - 1) / taps_at_once * taps_at_once];
    int live_source[max_taps], live_filter[max_taps], live_tap[max_taps];  // offsets in elements
    int live_end[max_blocks];                                              // of each block's part of the list
    int step_end[max_blocks];                                              // of each block's part of the K loop
    int row_source[Tile::rows];                                            // pixel of offset (0, 0)
    int row_image[Tile::rows], row_out[Tile::rows];                        // image, pixel in it; -1: no such row
    float row_scale[Tile::rows];                                           // fprop
    uint32_t row_blocks[Tile::rows];                                       // dgrad: which blocks are valid here
};

struct Place {
    int n, i, j;
    bool inside;
};

// The grid place of a tile's row. Rows past the end have inside == false and are never loaded nor stored.
// Unsigned, and patches of a size that is known here: a division costs 80 cycles, and every load waits for these.
template <int tile_rows>
PCONV_DEV Place place_of(const ProductParams& p, unsigned tile, unsigned row, unsigned grid_h, unsigned grid_w) {
    Place place;
    if (p.tiling.patch_w > 0) {
        constexpr unsigned patch_h = patch_height<tile_rows>, patch_w = tile_rows / patch_h;
        const unsigned across = (grid_w + patch_w - 1) / patch_w, down = (grid_h + patch_h - 1) / patch_h;
        const unsigned image = tile / (across * down);
        const unsigned patch = tile - image * across * down, patch_y = patch / across;
        place.n = image;
        place.i = patch_y * patch_h + row / patch_w;
        place.j = (patch - patch_y * across) * patch_w + row % patch_w;
    } else {
        const unsigned m = tile * tile_rows + row, image = m / (grid_h * grid_w);
        const unsigned rest = m - image * grid_h * grid_w, line = rest / grid_w;
        place.n = image;
        place.i = line;
        place.j = rest - line * grid_w;
    }
    place.inside = place.n < p.output.n && place.i < int(grid_h) && place.j < int(grid_w);
    return place.inside ? place : Place{0, 0, 0, false};  // no offset of a row that is not there may overflow
}

// Taps that a parity class does not use are put far outside.
template <Pass pass>
PCONV_DEV Tap find_tap(const GemmParams& p, int tap, int class_y, int class_x) {
    const int r = tap / p.window.s, s = tap - r * p.window.s;
    if (pass == Pass::fprop) return {r * p.window.dil_h - p.window.pad_h, s * p.window.dil_w - p.window.pad_w};
    const int far_y = class_y + p.window.pad_h - r * p.window.dil_h,
              far_x = class_x + p.window.pad_w - s * p.window.dil_w;
    const bool used = far_y % p.window.stride_h == 0 && far_x % p.window.stride_w == 0;
    return used ? Tap{far_y / p.window.stride_h, far_x / p.window.stride_w} : far_outside();
}

// One row: its bits of every tap (voted into words by the warp), its count, and where it is stored.
template <Pass pass, class Tile>
PCONV_DEV void describe_row(
    const GemmParams& p, Tables<Tile>& tables, int position, const Place& place, int class_y, int class_x) {
    const int row = position / Tile::rows_per_thread + position % Tile::rows_per_thread * Tile::row_step;
    const int step_h = pass == Pass::fprop ? p.window.stride_h : 1,
              step_w = pass == Pass::fprop ? p.window.stride_w : 1;
    const int y0 = place.i * step_h, x0 = place.j * step_w, taps = p.window.r * p.window.s;
    const int out_y = pass == Pass::fprop ? place.i : place.i * p.window.stride_h + class_y;
    const int out_x = pass == Pass::fprop ? place.j : place.j * p.window.stride_w + class_x;
    const int out_pixel = out_y * p.output.w + out_x;
    const uint8_t* const mask = p.mask.bytes ? p.mask.bytes + place.n * p.mask.batch_step : nullptr;

    uint32_t own_blocks = ~0u;  // dgrad: nothing is gathered for a pixel that is a hole, its gradient is 0
    if (pass == Pass::dgrad && mask && place.inside) {
        own_blocks = 0;
        for (int b = 0; b < p.mask.blocks; ++b) own_blocks |= uint32_t(mask[b * p.mask.plane + out_pixel] != 0) << b;
    }
    const bool wanted = place.inside & (own_blocks != 0), masked = pass == Pass::fprop && mask;
    const unsigned source_h = p.source_h, source_w = p.source_w;
    int count = 0;
    for (int b = 0; b < p.packing.blocks; ++b) {
        // The bytes of ten taps are requested before any of them is needed, and no branch surrounds a load: one
        // latency for all ten. Without a mask every tap loads the source's first byte, which is unused.
        const uint8_t* const plane = masked ? mask + b * p.mask.plane : static_cast<const uint8_t*>(p.source);
        int pixels = 0;
        for (int first = 0; first < taps; first += taps_at_once) {
            uint8_t bytes[taps_at_once];
            uint32_t inside = 0, valid = masked ? 0 : ~0u;
            Tap at[taps_at_once];  // past the last one: far outside
#pragma unroll
            for (int i = 0; i < taps_at_once; i += 2) {
                const int4 two = *reinterpret_cast<const int4*>(&tables.taps[first + i]);
                at[i] = {two.x, two.y}, at[i + 1] = {two.z, two.w};
            }
#pragma unroll
            for (int i = 0; i < taps_at_once; ++i) {
                const unsigned y = y0 + at[i].y, x = x0 + at[i].x;
                const bool ok = wanted & (y < source_h) & (x < source_w);
                if (pass == Pass::fprop) bytes[i] = __ldg(plane + (ok & masked ? y * source_w + x : 0u));
                inside |= ok ? 1u << i : 0u;
            }
#pragma unroll
            for (int i = 0; i < taps_at_once; ++i)
                if (pass == Pass::fprop) valid |= bytes[i] ? 1u << i : 0u;
            if (pass == Pass::fprop) inside &= valid;
            uint32_t words[taps_at_once];
#pragma unroll
            for (int i = 0; i < taps_at_once; ++i) words[i] = __ballot_sync(0xffffffffu, inside >> i & 1);
            if (position % 32 == 0) {
                const int last = taps - first;
#pragma unroll
                for (int i = 0; i < taps_at_once; ++i)
                    if (i < last) tables.valid[b * taps + first + i][position / 32] = words[i];
            }
            pixels += __popc(inside);
        }
        count += pixels * (p.packing.first[b + 1] - p.packing.first[b]);
    }
    tables.row_source[row] = (place.n * p.source_h + y0) * p.source_w + x0;
    tables.row_image[row] = place.n;
    tables.row_out[row] = place.inside ? out_pixel : -1;
    if (pass == Pass::dgrad) {
        tables.row_blocks[row] = own_blocks;
    } else if (p.output.ratio_in) {  // groups of masks that were counted elsewhere
        const int64_t at = (int64_t(p.output.ratio_n > 1 ? place.n : 0) * p.output.h + out_y) * p.output.w + out_x;
        tables.row_scale[row] = place.inside ? p.output.ratio_in[at] : 0.f;
    } else {
        tables.row_scale[row] = count > 0 ? float(p.output.full) / float(count) : 0.f;
    }
}

// By a warp: of a block's taps, whose bits begin at `first_valid`, those that any row needs are handed to
// describe(entry of the list, tap), in order. Returns the list's new end.
template <class Tile, class Describe>
PCONV_DEV int list_live_taps(
    Tables<Tile>& tables, int block, int first_valid, int taps, int total, int lane, const Describe& describe) {
    for (int first = 0; first < taps; first += 32) {
        const int tap = first + lane;
        uint32_t any = 0;
        if (tap < taps)
            for (int word = 0; word < Tables<Tile>::words; ++word) any |= tables.valid[first_valid + tap][word];
        const uint32_t live = __ballot_sync(0xffffffffu, any != 0);
        if (any) {
            const int at = total + __popc(live & ((1u << lane) - 1));
            tables.live_tap[at] = first_valid + tap;
            describe(at, tap);
        }
        total += __popc(live);
    }
    if (lane == 0) tables.live_end[block] = total;
    return total;
}

// The K loop's steps through a block: its live taps for each piece of `depth` of its channels.
PCONV_DEV int steps_through(const ProductParams& p, int block, int live_taps, int depth) {
    const int channels = p.packing.start[block + 1] - p.packing.start[block];
    const unsigned taps = p.tiling.taps_per_step, across = taps > 1 ? (live_taps + taps - 1) / taps : live_taps;
    return across * ((channels + depth - 1) / depth);
}

// Block by block, in the order in which the K loop takes them.
template <class Tile>
PCONV_DEV void list_live_taps(const GemmParams& p, Tables<Tile>& tables, int lane, int depth) {
    const int taps = p.window.r * p.window.s;
    int total = 0, steps = 0;
    for (int b = 0; b < p.packing.blocks; ++b) {
        const int before = total;
        total = list_live_taps(tables, b, b * taps, taps, total, lane, [&](int at, int tap) {
            tables.live_source[at] = (tables.taps[tap].y * p.source_w + tables.taps[tap].x) * p.source_channels;
            tables.live_filter[at] = tap * p.filter_channels;
        });
        steps += steps_through(p, b, total - before, depth);
        if (lane == 0) tables.step_end[b] = steps;
    }
}

// Fills the tables; ends with a barrier. depth: channels of a K step.
template <Pass pass, class Tile>
PCONV_DEV void prepare_tile(const GemmParams& p, Tables<Tile>& tables, int tile, int parity_class, int depth) {
    const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int class_y = pass == Pass::fprop ? 0 : parity_class / p.window.stride_w;
    const int class_x = pass == Pass::fprop ? 0 : parity_class % p.window.stride_w;
    const int grid_h =
        pass == Pass::fprop ? p.output.h : (p.output.h - class_y + p.window.stride_h - 1) / p.window.stride_h;
    const int grid_w =
        pass == Pass::fprop ? p.output.w : (p.output.w - class_x + p.window.stride_w - 1) / p.window.stride_w;
    const int taps = p.window.r * p.window.s, listed = (taps + taps_at_once - 1) / taps_at_once * taps_at_once;
    for (int tap = thread; tap < listed; tap += Tile::threads)
        tables.taps[tap] = tap < taps ? find_tap<pass>(p, tap, class_y, class_x) : far_outside();
    __syncthreads();
    for (int unit = warp; unit < Tables<Tile>::words; unit += Tile::warps) {
        const int position = unit * 32 + lane;
        const int row = position / Tile::rows_per_thread + position % Tile::rows_per_thread * Tile::row_step;
        // A class may have no pixel at all (stride larger than the image): no division by its size then.
        Place place{0, 0, 0, false};
        if (grid_h > 0 && grid_w > 0) place = place_of<Tile::rows>(p, tile, row, grid_h, grid_w);
        describe_row<pass>(p, tables, position, place, class_y, class_x);
    }
    __syncthreads();
    if (warp == 0) list_live_taps(p, tables, lane, depth);
    __syncthreads();
}

}  // namespace pconv::cuda
