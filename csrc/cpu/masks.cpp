// Masks as bytes, and what the windows over them hold.
#include "kernels.h"
#include "numeric.h"
#include "parallel.h"

#include <atomic>
#include <cstring>
#include <vector>

namespace pconv::cpu {
namespace {

// NaN and minus zero are holes. `|` rather than `||`, which is not vectorised.
template <class T>
PCONV_INLINE bool is_set(T value) {
    return (load(value) < 0) | (load(value) > 0);
}
template <>
PCONV_INLINE bool is_set(uint8_t value) {
    return value != 0;
}
template <class T>
PCONV_INLINE bool is_binary(T value) {
    return load(value) == 0 || load(value) == 1;
}
template <>
PCONV_INLINE bool is_binary(uint8_t value) {
    return value <= 1;
}

// Calls row(source, flat index of the row's first element) for every row of the four-dimensional mask.
template <class T, class Row>
void for_each_row(const void* mask, const int64_t sizes[4], const int64_t strides[4], const Row& row) {
    const T* source = static_cast<const T*>(mask);
    parallel_for(sizes[0] * sizes[1] * sizes[2], grain_for(sizes[3] * sizeof(T)), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t y = i % sizes[2], c = i / sizes[2] % sizes[1], n = i / sizes[2] / sizes[1];
            row(source + n * strides[0] + c * strides[1] + y * strides[2], i * sizes[3]);
        }
    });
}

template <class T>
PCONV_INLINE void row_to_bytes(const T* source, int64_t stride, int64_t count, uint8_t* out) {
    if (stride == 1)  // a loop of its own, which is vectorised
        for (int64_t x = 0; x < count; ++x) out[x] = is_set(source[x]);
    else
        for (int64_t x = 0; x < count; ++x) out[x] = is_set(source[x * stride]);
}

template <class Visit>
void by_dtype(DType dtype, const Visit& visit) {
    switch (dtype) {
        case DType::f64: return visit(double{});
        case DType::f32: return visit(float{});
        case DType::bf16: return visit(BFloat16{});
        case DType::f16: return visit(Half{});
        case DType::u8: return visit(uint8_t{});
    }
}

// sums[pad + x] = how many input channels are valid at column x, summed over the window's rows.
PCONV_CLONES void add_row(const uint8_t* row, int32_t channels, int64_t width, int32_t* sums) {
    for (int64_t x = 0; x < width; ++x) sums[x] += row[x] ? channels : 0;
}

PCONV_CLONES void add_columns(
    const int32_t* sums, int64_t taps, int64_t dilation, int64_t stride, int64_t width, int32_t* counts) {
    for (int64_t s = 0; s < taps; ++s) {
        const int32_t* column = sums + s * dilation;
        if (stride == 1)  // strides that the compiler knows are vectorised
            for (int64_t q = 0; q < width; ++q) counts[q] += column[q];
        else if (stride == 2)
            for (int64_t q = 0; q < width; ++q) counts[q] += column[q * 2];
        else
            for (int64_t q = 0; q < width; ++q) counts[q] += column[q * stride];
    }
}

template <class T>
PCONV_INLINE bool finish_row(const int32_t* counts, int32_t full, int64_t width, T* ratio, uint8_t* new_mask) {
    int64_t other = 0;
    for (int64_t q = 0; q < width; ++q) {
        ratio[q] = counts[q] > 0 ? T(full) / T(counts[q]) : T(0);
        new_mask[q] = counts[q] > 0;
        other += counts[q] != full;
    }
    return other == 0;
}

PCONV_CLONES bool finish_row_f32(const int32_t* counts, int32_t full, int64_t width, float* ratio, uint8_t* new_mask) {
    return finish_row(counts, full, width, ratio, new_mask);
}

PCONV_CLONES bool finish_row_f64(const int32_t* counts, int32_t full, int64_t width, double* ratio, uint8_t* new_mask) {
    return finish_row(counts, full, width, ratio, new_mask);
}

}  // namespace

void mask_to_bytes(const void* mask, DType dtype, const int64_t sizes[4], const int64_t strides[4], uint8_t* out) {
    by_dtype(dtype, [&](auto kind) {
        using T = decltype(kind);
        for_each_row<T>(mask, sizes, strides, [&](const T* source, int64_t first) {
            row_to_bytes(source, strides[3], sizes[3], out + first);
        });
    });
}

int64_t count_not_binary(const void* mask, DType dtype, const int64_t sizes[4], const int64_t strides[4]) {
    std::atomic<int64_t> total{0};
    by_dtype(dtype, [&](auto kind) {
        using T = decltype(kind);
        for_each_row<T>(mask, sizes, strides, [&](const T* source, int64_t) {
            int64_t found = 0;
            for (int64_t x = 0; x < sizes[3]; ++x) found += !is_binary(source[x * strides[3]]);
            total += found;
        });
    });
    return total;
}

bool has_zero(const uint8_t* bytes, int64_t count) { return count > 0 && std::memchr(bytes, 0, count) != nullptr; }

bool window_ratio(const Geometry& g, const Mask& mask, const Ratio& ratio, uint8_t* new_mask) {
    // A ratio with groups comes with a mask of C blocks: each group sums its own C / groups of them. A ratio without
    // groups sums all blocks. Where the convolution has groups all the same, the mask has one block of C channels,
    // of which a window sees C / groups: hence the scale.
    const int64_t blocks = mask.blocks / ratio.groups;
    const int64_t scale = ratio.groups == 1 ? g.groups : 1;
    const int32_t full = int32_t(g.c / g.groups * g.r * g.s);
    const int64_t padded = g.w + 2 * g.pad_w;
    std::atomic<bool> all_full{true};
    // One job is one row of ratios. The sum is separable: R rows of the mask are added up column by column (vectors),
    // then S of the sums are added for each output pixel. Margins of zeros stand for the pixels outside the image.
    const int64_t rows = ratio.n * ratio.groups * g.p;
    parallel_for(rows, grain_for(g.r * g.w * blocks + g.q * 4), [&](int64_t begin, int64_t end) {
        std::vector<int32_t> sums(padded), counts(g.q);
        const std::vector<uint8_t> valid_row(mask.bytes ? 0 : g.w, 1);
        for (int64_t job = begin; job < end; ++job) {
            const int64_t p = job % g.p, group = job / g.p % ratio.groups, n = job / g.p / ratio.groups;
            std::fill(sums.begin(), sums.end(), 0);
            std::fill(counts.begin(), counts.end(), 0);
            for (int64_t r = 0; r < g.r; ++r) {
                const int64_t y = p * g.stride_h - g.pad_h + r * g.dil_h;
                if (y < 0 || y >= g.h) continue;
                for (int64_t b = group * blocks; b < (group + 1) * blocks; ++b) {
                    const int64_t channels = last_of_block(mask, b, g.c) - first_of_block(mask, b);
                    const uint8_t* row =
                        mask.bytes ? mask.bytes + n * mask.batch_step + b * mask.plane + y * g.w : valid_row.data();
                    add_row(row, int32_t(channels / scale), g.w, sums.data() + g.pad_w);
                }
            }
            add_columns(sums.data(), g.s, g.dil_w, g.stride_w, g.q, counts.data());
            const bool row_full = g.dtype == DType::f64
                                      ? finish_row_f64(
                                            counts.data(), full, g.q, static_cast<double*>(ratio.values) + job * g.q,
                                            new_mask + job * g.q)
                                      : finish_row_f32(
                                            counts.data(), full, g.q, static_cast<float*>(ratio.values) + job * g.q,
                                            new_mask + job * g.q);
            if (!row_full) all_full = false;
        }
    });
    return all_full;
}

}  // namespace pconv::cpu
