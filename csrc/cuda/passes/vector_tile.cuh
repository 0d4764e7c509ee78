// Tiles of [pixels, packed channels] for the kernels that write the packed form, channels_last in 16-byte vectors.
//
// A tile is tile_slots vectors: `vectors` neighbouring ones of each of `pixels` pixels, both powers of two. A
// channels_last source is read the way it is written. An NCHW source is staged through shared memory, so that
// neighbouring threads read neighbouring pixels and then write neighbouring channels:
//
//   staged  [vectors * channels a vector, pitch], pitch = pixels + 1
//
// The odd pitch puts the channels of one vector, and the vectors of one pixel, into different banks.
#pragma once

#include "../indexing.cuh"

namespace pconv::cuda {

constexpr int vector_bytes = 16;
constexpr int tile_threads = 256;
constexpr int tile_slots = 2 * tile_threads;

template <class T>
struct alignas(vector_bytes) Vector {
    static constexpr int size = vector_bytes / int(sizeof(T));
    T at[size];
};

struct TilePlan {
    int vectors_log2, pixels_log2;
    int64_t packed_vectors;  // of one pixel
    int64_t channel_tiles, pixel_tiles;
};

// Of an NCHW source a tile takes 32 channels at most, so that it still has a warp's width of pixels. Narrower tiles
// are chosen where a wide one would be largely empty.
inline TilePlan plan_tiles(int64_t pixels, int64_t packed_vectors, int vector_size, bool channels_last) {
    int vectors = channels_last ? 32 : 32 / vector_size;
    while (vectors > 1 && vectors / 2 >= packed_vectors) vectors /= 2;
    while (vectors > 4 && packed_vectors % vectors != 0) vectors /= 2;
    TilePlan plan{0, 0, packed_vectors, ceil_div(packed_vectors, vectors), 0};
    while ((1 << plan.vectors_log2) < vectors) ++plan.vectors_log2;
    while ((vectors << plan.pixels_log2) < tile_slots) ++plan.pixels_log2;
    plan.pixel_tiles = ceil_div(pixels, int64_t(1) << plan.pixels_log2);
    return plan;
}

PCONV_DEV int staged_pitch(const TilePlan& plan) { return (1 << plan.pixels_log2) + 1; }

// Rounded to 16 bytes: what follows the tile in shared memory stays aligned.
inline size_t staged_bytes(const TilePlan& plan, int element_bytes) {
    const size_t rows = (size_t(vector_bytes) << plan.vectors_log2) / element_bytes;
    const size_t bytes = rows * ((size_t(1) << plan.pixels_log2) + 1) * element_bytes;
    return (bytes + vector_bytes - 1) / vector_bytes * vector_bytes;
}

// Whether pixels' channels can be read in vectors: every step between them has to be a multiple of 16 bytes.
inline bool reads_in_vectors(const void* base, const Strides& strides, int element_bytes) {
    if (strides.at[1] != 1 || reinterpret_cast<uintptr_t>(base) % vector_bytes != 0) return false;
    for (int axis : {0, 2, 3})
        if (strides.at[axis] * element_bytes % vector_bytes != 0) return false;
    return true;
}

// staged[row][pixel] = fetch(where the pixel is, row) for the tile's pixels that exist.
template <class T, class Fetch>
PCONV_DEV void stage_tile(T* staged, const TilePlan& plan, const Pixels& pixels, int64_t first_pixel, Fetch fetch) {
    const int tile_pixels = 1 << plan.pixels_log2, rows = Vector<T>::size << plan.vectors_log2;
    const int lanes = tile_pixels < tile_threads ? tile_pixels : tile_threads;
    const int rows_at_once = tile_threads / lanes;
    // Pixels outside, rows inside: a pixel's place costs divisions, a row's only an addition.
    for (int pixel = int(threadIdx.x) & (lanes - 1); pixel < tile_pixels; pixel += lanes) {
        if (first_pixel + pixel >= pixels.count) break;
        const PixelAt at = locate(pixels, first_pixel + pixel);
        for (int row = int(threadIdx.x) / lanes; row < rows; row += rows_at_once)
            staged[row * staged_pitch(plan) + pixel] = fetch(at, row);
    }
}

template <class T>
PCONV_DEV Vector<T> staged_vector(const T* staged, const TilePlan& plan, int vector, int pixel) {
    Vector<T> out;
#pragma unroll
    for (int i = 0; i < Vector<T>::size; ++i)
        out.at[i] = staged[(vector * Vector<T>::size + i) * staged_pitch(plan) + pixel];
    return out;
}

}  // namespace pconv::cuda
