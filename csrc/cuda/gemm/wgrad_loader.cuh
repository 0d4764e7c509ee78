// The weight gradient's gather. Columns of the product are (tap, channel) pairs, so a 16-byte chunk of columns belongs
// to one tap, and a thread, which copies the same chunk of every pixel, to one tap throughout: its pixel, its bounds
// and its mask byte. Those bytes are fetched a step ahead, while the tensor cores are busy; the divisions that turn a
// pixel's number into coordinates are done once a pixel, two steps ahead, and shared through shared memory.
#pragma once

#include "gemm.h"
#include "wgrad_products.cuh"

namespace pconv::cuda {

struct PixelPlace {
    int n;     // image, -1 past the end
    int y, x;  // of the window's first tap, may lie outside
};

template <class Math>
struct WgradTables {
    PixelPlace places[2][WgradStage<Math>::pixels];  // of the next step and the one after it
};

template <class Math, class Tile>
struct WgradLoader {
    using T = typename Math::Storage;
    static constexpr int pixels = WgradStage<Math>::pixels, panel_bytes = WgradStage<Math>::panel_bytes;
    static constexpr int chunks = Tile::columns / Math::chunk, pixel_step = Tile::copy_threads / chunks;
    static constexpr int pixels_per_thread = pixels / pixel_step;
    // Rows four apart have the same swizzle in fp32; in half types it differs by 4 chunks.
    static constexpr int swizzle_flip = Math::chunk == 8 && pixel_step % 8 == 4 ? 4 << 4 : 0;
    static_assert(pixel_step % 4 == 0, "two swizzles a thread at most");

    const WgradParams& p;
    WgradTables<Math>& tables;
    const int thread, chunk, pixel0;
    int tap_y, tap_x, channel, filter, end;  // end: the first pixel of the next split
    bool column_exists;
    const uint8_t* mask;                // of this thread's channels, nullptr: everything is valid
    uint32_t place;                     // in a tile of either operand
    int source[pixels_per_thread];      // what the coming step copies: offset in x ...
    uint32_t valid[pixels_per_thread];  // ... and whether: the mask's byte

    PCONV_DEV WgradLoader(
        const WgradParams& params, WgradTables<Math>& shared_tables, int thread_index, int row0, int column0,
        int end_pixel)
        : p(params),
          tables(shared_tables),
          thread(thread_index),
          chunk(thread_index % chunks),
          pixel0(thread_index / chunks),
          end(end_pixel) {
        const int column = column0 + chunk * Math::chunk, tap = column / p.channels;
        column_exists = tap < p.window.r * p.window.s;
        channel = column - tap * p.channels;
        tap_y = tap / p.window.s * p.window.dil_h;
        tap_x = tap % p.window.s * p.window.dil_w;
        filter = row0 + chunk * Math::chunk;
        int block = 0;
        while (block < p.packing.blocks - 1 && channel >= p.packing.start[block + 1]) ++block;
        mask = p.mask.bytes ? p.mask.bytes + block * p.mask.plane : nullptr;
        place = chunk / 8 * panel_bytes + pixel0 * 128 + (((chunk & 7) ^ WgradStage<Math>::swizzle(pixel0)) << 4);
    }

    // By the first `pixels` threads: the coordinates of a step's pixels.
    PCONV_DEV void locate(int first_pixel, int slot) const {
        if (thread >= pixels) return;
        const int pixel = first_pixel + thread;
        PixelPlace found{-1, 0, 0};
        if (pixel < end) {
            const int row = pixel / p.q;
            found.n = row / p.p;
            found.y = (row - found.n * p.p) * p.window.stride_h - p.window.pad_h;
            found.x = (pixel - row * p.q) * p.window.stride_w - p.window.pad_w;
        }
        tables.places[slot][thread] = found;
    }

    // Offsets and mask bytes of this thread's chunk of a step's pixels; the bytes are not looked at before load().
    PCONV_DEV void prepare(int slot) {
#pragma unroll
        for (int i = 0; i < pixels_per_thread; ++i) {
            const PixelPlace found = tables.places[slot][pixel0 + i * pixel_step];
            const int y = found.y + tap_y, x = found.x + tap_x;
            const bool inside =
                column_exists && found.n >= 0 && unsigned(y) < unsigned(p.h) && unsigned(x) < unsigned(p.w);
            const int in_image = y * p.w + x;
            source[i] = inside ? (found.n * p.h * p.w + in_image) * p.channels + channel : 0;
            valid[i] = inside;
            if (inside && mask) valid[i] = mask[found.n * p.mask.batch_step + in_image];
        }
    }

    // Where the i-th of this thread's pixels lies in a tile.
    PCONV_DEV uint32_t place_of(int i) const { return (place ^ (i % 2 ? swizzle_flip : 0)) + i * (pixel_step * 128); }

    PCONV_DEV void load_x(uint32_t tile) const {
#pragma unroll
        for (int i = 0; i < pixels_per_thread; ++i)
            cp_async_ca_16(tile + place_of(i), static_cast<const T*>(p.x) + source[i], valid[i] != 0);
    }

    PCONV_DEV void load(uint32_t stage, int first_pixel) const {
        static_assert(Tile::rows == Tile::columns, "both operands are copied by the same thread layout");
        const T* const gradient = static_cast<const T*>(p.scaled) + int64_t(first_pixel + pixel0) * p.k_padded + filter;
        const int left = filter < p.k_padded ? end - first_pixel - pixel0 : 0;
#pragma unroll
        for (int i = 0; i < pixels_per_thread; ++i)
            cp_async_cg_16(stage + place_of(i), gradient + int64_t(i) * pixel_step * p.k_padded, i * pixel_step < left);
        load_x(stage + Tile::rows / (8 * Math::chunk) * panel_bytes);
    }
};

}  // namespace pconv::cuda
