// out = mask ? x : 0, on bit patterns: NaN and infinity in a hole are dropped.
#include "by_dtype.h"
#include "copy_runs.h"
#include "kernels.h"
#include "numeric.h"
#include "parallel.h"

#include <algorithm>
#include <cstring>

namespace pconv::cpu {
namespace {

template <class T>
PCONV_INLINE void select(const T* x, const uint8_t* mask, int64_t count, T* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = mask[i] ? x[i] : T(0);
}

PCONV_CLONES void select_16(const uint16_t* x, const uint8_t* m, int64_t count, uint16_t* out) {
    select(x, m, count, out);
}
PCONV_CLONES void select_32(const uint32_t* x, const uint8_t* m, int64_t count, uint32_t* out) {
    select(x, m, count, out);
}
PCONV_CLONES void select_64(const uint64_t* x, const uint8_t* m, int64_t count, uint64_t* out) {
    select(x, m, count, out);
}

void select_row(const void* x, const uint8_t* mask, int64_t count, void* out, int64_t bytes) {
    if (bytes == 2) return select_16(static_cast<const uint16_t*>(x), mask, count, static_cast<uint16_t*>(out));
    if (bytes == 4) return select_32(static_cast<const uint32_t*>(x), mask, count, static_cast<uint32_t*>(out));
    select_64(static_cast<const uint64_t*>(x), mask, count, static_cast<uint64_t*>(out));
}

// Planes [C, H W]: a plane has its block's mask.
void copy_nchw(const Geometry& g, const Mask& mask, const char* x, char* out, int64_t bytes) {
    const int64_t pixels = g.h * g.w;
    parallel_for(g.n * g.c, grain_for(2 * pixels * bytes), [&](int64_t begin, int64_t end) {
        for (int64_t plane = begin; plane < end; ++plane) {
            const int64_t n = plane / g.c, c = plane % g.c;
            const int64_t b = mask.blocks > 2 ? c : mask.blocks == 2 && c >= mask.second;
            const uint8_t* valid = mask.bytes + n * mask.batch_step + b * mask.plane;
            const int64_t offset = plane * pixels * bytes;
            select_row(x + offset, valid, pixels, out + offset, bytes);
        }
    });
}

// Pixels with several blocks: each block is a segment of the pixel's row.
void copy_segments(
    const Geometry& g, const Mask& mask, const uint8_t* valid, int64_t from, int64_t to, int64_t bytes, const char* x,
    char* out) {
    for (int64_t i = from; i < to; ++i) {
        for (int64_t b = 0; b < mask.blocks; ++b) {
            const int64_t first = first_of_block(mask, b), length = (last_of_block(mask, b, g.c) - first) * bytes;
            const int64_t offset = (i * g.c + first) * bytes;
            if (!valid[b * mask.plane + i])
                std::memset(out + offset, 0, length);
            else if (out != x)
                std::memcpy(out + offset, x + offset, length);
        }
    }
}

void copy_nhwc(const Geometry& g, const Mask& mask, const char* x, char* out, int64_t bytes) {
    const int64_t row_bytes = g.c * bytes, pixels = g.h * g.w;
    parallel_for(g.n * g.h, grain_for(2 * g.w * row_bytes), [&](int64_t begin, int64_t end) {
        // As many rows of one picture at a time as this thread has: runs go on from row to row.
        for (int64_t row = begin; row < end;) {
            const int64_t n = row / g.h, rows = std::min(end, (n + 1) * g.h) - row, first = row % g.h * g.w;
            const uint8_t* valid = mask.bytes + n * mask.batch_step;
            const int64_t image = n * pixels * row_bytes, start = image + first * row_bytes;
            if (mask.blocks == 1)
                copy_runs(x + start, valid + first, rows * g.w, row_bytes, out + start);
            else
                copy_segments(g, mask, valid, first, first + rows * g.w, bytes, x + image, out + image);
            row += rows;
        }
    });
}

}  // namespace

void masked_copy(const Geometry& g, const Mask& mask, const void* x, void* out) {
    const int64_t bytes = bytes_of(g.dtype);
    const auto copy = g.layout == Layout::nhwc ? copy_nhwc : copy_nchw;
    copy(g, mask, static_cast<const char*>(x), static_cast<char*>(out), bytes);
}

}  // namespace pconv::cpu
