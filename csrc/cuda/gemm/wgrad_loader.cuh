// The weight gradient's gather. Columns of the product are (tap, channel) pairs, so a 16-byte chunk of columns belongs
// to one tap, and a thread, which copies the same chunk of every pixel, to one tap throughout: its pixel, its bounds
// and its mask byte. Those bytes are fetched a step ahead, while the tensor cores are busy; the divisions that turn a
// pixel's number into coordinates are done once a pixel, two steps ahead, and shared through shared memory.
#pragma once

#include "gemm.h"
#include "wgrad_products.cuh"

namespace pconv::cuda {

// Of the window's first tap at an output pixel; it may lie outside, and does past the end.
struct alignas(16) PixelPlace {
    int y, x;
    int pixel, mask;  // in the batch's pixels of x, and in the bytes of its mask
};
constexpr int outside = 1 << 29;  // larger than any image, and twice it is still a number

// A division by a number that the compiler does not know takes about 80 cycles. The estimate is at most one too small:
// inverse >= 2^32 / value - 1, and numbers are below 2^31.
PCONV_DEV unsigned quotient(unsigned number, const Divisor& divisor) {
    const unsigned estimate = __umulhi(number, divisor.inverse);
    return estimate + (number - estimate * divisor.value >= divisor.value);
}

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
    int tap_y, tap_x, filter, end;  // end: the first pixel of the next split
    int source_shift;               // from a pixel's window to this thread's tap and channels
    const uint8_t* mask;            // of this thread's channels at its tap, nullptr: everything is valid
    uint32_t place;                 // in a tile of either operand

    // What a coming step copies.
    struct Gathered {
        int source[pixels_per_thread];      // offset in x ...
        uint32_t valid[pixels_per_thread];  // ... and whether: the mask's byte
    };

    PCONV_DEV WgradLoader(
        const WgradParams& params, WgradTables<Math>& shared_tables, int thread_index, int row0, int column0,
        int end_pixel)
        : p(params),
          tables(shared_tables),
          thread(thread_index),
          chunk(thread_index % chunks),
          pixel0(thread_index / chunks),
          end(end_pixel) {
        const int column = column0 + chunk * Math::chunk, number = column / p.channels;
        const bool exists = number < p.window.r * p.window.s;
        const int tap = exists ? number : 0, channel = column - number * p.channels;
        tap_y = tap / p.window.s * p.window.dil_h;
        tap_x = tap % p.window.s * p.window.dil_w;
        const int tap_shift = tap_y * p.w + tap_x;
        source_shift = tap_shift * p.channels + channel;
        if (!exists) tap_y = outside;
        filter = row0 + chunk * Math::chunk;
        int block = 0;
        while (block < p.packing.blocks - 1 && channel >= p.packing.start[block + 1]) ++block;
        mask = p.mask.bytes ? p.mask.bytes + block * p.mask.plane + tap_shift : nullptr;
        place = chunk / 8 * panel_bytes + pixel0 * 128 + (((chunk & 7) ^ WgradStage<Math>::swizzle(pixel0)) << 4);
    }

    // By the first `pixels` threads: the coordinates of a step's pixels.
    PCONV_DEV void locate(int first_pixel, int slot) const {
        if (thread >= pixels) return;
        const int pixel = first_pixel + thread;
        PixelPlace found{-2 * outside, 0, 0, 0};
        if (pixel < end) {
            const int row = quotient(pixel, p.by_q), n = quotient(row, p.by_p);
            found.y = (row - n * p.p) * p.window.stride_h - p.window.pad_h;
            found.x = (pixel - row * p.q) * p.window.stride_w - p.window.pad_w;
            const int in_image = found.y * p.w + found.x;
            found.pixel = n * p.h * p.w + in_image;
            found.mask = n * int(p.mask.batch_step) + in_image;
        }
        tables.places[slot][thread] = found;
    }

    // Offsets and mask bytes of this thread's chunk of a step's pixels; the bytes are not looked at before load().
    PCONV_DEV void prepare(int slot, Gathered& coming) const {
#pragma unroll
        for (int i = 0; i < pixels_per_thread; ++i) {
            const PixelPlace found = tables.places[slot][pixel0 + i * pixel_step];
            const unsigned y = found.y + tap_y, x = found.x + tap_x;
            const bool inside = (y < unsigned(p.h)) & (x < unsigned(p.w));
            coming.source[i] = inside ? found.pixel * p.channels + source_shift : 0;  // without the 0 ptxas spills
            coming.valid[i] = inside;
            if (inside && mask) coming.valid[i] = mask[found.mask];
        }
    }

    // Where the i-th of this thread's pixels lies in a tile.
    PCONV_DEV uint32_t place_of(int i) const { return (place ^ (i % 2 ? swizzle_flip : 0)) + i * (pixel_step * 128); }

    PCONV_DEV void load_x(uint32_t tile, const Gathered& own) const {
        const T* const x = static_cast<const T*>(p.x);
        if (Tile::gathers_through_l1 || p.channels < Tile::columns) {
#pragma unroll
            for (int i = 0; i < pixels_per_thread; ++i)
                cp_async_ca_16(tile + place_of(i), x + own.source[i], own.valid[i] != 0);
        } else {  // no other tap in the tile, nothing to find in L1
#pragma unroll
            for (int i = 0; i < pixels_per_thread; ++i)
                cp_async_cg_16(tile + place_of(i), x + own.source[i], own.valid[i] != 0);
        }
    }

    PCONV_DEV void load(uint32_t stage, int first_pixel, const Gathered& own) const {
        static_assert(Tile::rows == Tile::columns, "both operands are copied by the same thread layout");
        const T* const gradient = static_cast<const T*>(p.scaled) + int64_t(first_pixel + pixel0) * p.k_padded + filter;
        const int left = filter < p.k_padded ? end - first_pixel - pixel0 : 0;
#pragma unroll
        for (int i = 0; i < pixels_per_thread; ++i)
            cp_async_cg_16(stage + place_of(i), gradient + int64_t(i) * pixel_step * p.k_padded, i * pixel_step < left);
        load_x(stage + Tile::rows / (8 * Math::chunk) * panel_bytes, own);
    }
};

}  // namespace pconv::cuda
