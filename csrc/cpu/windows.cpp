// Window counts over two or three axes, of ordinary and of transposed convolutions (windows.h), their ratios, and where
// they are not 0. Separable in the last axis: the rows of the mask that a row of windows sees are added up column by
// column, then the columns under each window.
#include "kernels.h"
#include "numeric.h"
#include "parallel.h"

#include <algorithm>
#include <atomic>
#include <vector>

namespace pconv::cpu {
namespace {

PCONV_CLONES void add_bytes(const uint8_t* row, int64_t width, int32_t* sums) {
    for (int64_t x = 0; x < width; ++x) sums[x] += row[x] != 0;
}

PCONV_CLONES void add_counts(const int32_t* row, int64_t width, int32_t* sums) {
    for (int64_t x = 0; x < width; ++x) sums[x] += row[x];
}

// One tap of a row of windows.
PCONV_CLONES void add_column(const int32_t* sums, int64_t stride, int64_t count, int32_t* counts) {
    if (stride == 1)  // strides that the compiler knows are vectorised
        for (int64_t q = 0; q < count; ++q) counts[q] += sums[q];
    else if (stride == 2)
        for (int64_t q = 0; q < count; ++q) counts[q] += sums[q * 2];
    else
        for (int64_t q = 0; q < count; ++q) counts[q] += sums[q * stride];
}

int64_t div_up(int64_t a, int64_t b) { return a > 0 ? (a + b - 1) / b : 0; }

// counts[out] = the sum of sums[in] over the taps of the window at each output position.
void add_columns(const Axis& axis, const int32_t* sums, int32_t* counts) {
    for (int64_t tap = 0; tap < axis.window; ++tap) {
        const int64_t shift = tap * axis.dilation - axis.pad;  // in = out * stride + shift
        const int64_t first = div_up(-shift, axis.stride),
                      end = std::min(axis.out, div_up(axis.in - shift, axis.stride));
        if (first < end) add_column(sums + first * axis.stride + shift, axis.stride, end - first, counts + first);
    }
}

void scatter_columns(const Axis& axis, const int32_t* sums, int32_t* counts) {
    for (int64_t tap = 0; tap < axis.window; ++tap) {
        const int64_t shift = tap * axis.dilation - axis.pad;  // out = in * stride + shift
        const int64_t first = div_up(-shift, axis.stride),
                      end = std::min(axis.in, div_up(axis.out - shift, axis.stride));
        for (int64_t i = first; i < end; ++i) counts[i * axis.stride + shift] += sums[i];
    }
}

template <class Real>
PCONV_INLINE bool finish_row(
    const int32_t* counts, const int32_t* taps, int32_t full, int32_t scale, int64_t width, Real* ratio,
    uint8_t* new_mask) {
    int64_t other = 0;
    for (int64_t q = 0; q < width; ++q) {
        const int32_t count = counts[q] * scale, most = taps[q] * full;
        ratio[q] = count > 0 ? Real(most) / Real(count) : Real(0);
        new_mask[q] = count > 0;
        other += count != most || count == 0;
    }
    return other == 0;
}

PCONV_CLONES bool finish_row_f32(
    const int32_t* counts, const int32_t* taps, int32_t full, int32_t scale, int64_t width, float* ratio,
    uint8_t* new_mask) {
    return finish_row(counts, taps, full, scale, width, ratio, new_mask);
}

PCONV_CLONES bool finish_row_f64(
    const int32_t* counts, const int32_t* taps, int32_t full, int32_t scale, int64_t width, double* ratio,
    uint8_t* new_mask) {
    return finish_row(counts, taps, full, scale, width, ratio, new_mask);
}

// How many channels of each group are valid at each input position: [images, groups, in of each axis].
std::vector<int32_t> valid_channels(const Windows& w, const Mask& mask, const Ratio& ratio) {
    const int64_t channels = mask.blocks / ratio.groups;
    std::vector<int32_t> sums(ratio.n * ratio.groups * mask.plane, 0);
    const int64_t width = w.axis[2].in, rows = mask.plane / width;
    parallel_for(ratio.n * ratio.groups * rows, grain_for(width * channels), [&](int64_t begin, int64_t end) {
        for (int64_t job = begin; job < end; ++job) {
            const int64_t row = job % rows, group = job / rows % ratio.groups, n = job / rows / ratio.groups;
            for (int64_t c = 0; c < channels; ++c)
                add_bytes(
                    mask.bytes + n * mask.batch_step + (group * channels + c) * mask.plane + row * width, width,
                    sums.data() + job * width);
        }
    });
    return sums;
}

}  // namespace

bool window_ratio(const Windows& w, const Mask& mask, const Ratio& ratio, uint8_t* new_mask) {
    const Axis &depths = w.axis[0], &rows = w.axis[1], &columns = w.axis[2];
    const bool per_channel = mask.blocks > 1;
    const std::vector<int32_t> channels = per_channel ? valid_channels(w, mask, ratio) : std::vector<int32_t>();
    const std::vector<uint8_t> valid_row(mask.bytes ? 0 : columns.in, 1);
    std::vector<int32_t> taps(columns.out);
    for (int64_t q = 0; q < columns.out; ++q) taps[q] = int32_t(taps_of(columns, w.transposed, q));
    const int32_t scale = per_channel ? 1 : int32_t(w.channels);
    std::atomic<bool> all_full{true};
    const int64_t jobs = ratio.n * ratio.groups * depths.out * rows.out;
    const int64_t cost = depths.window * rows.window * columns.in + 8 * columns.out;
    parallel_for(jobs, grain_for(cost), [&](int64_t begin, int64_t end) {
        std::vector<int32_t> sums(columns.in), counts(columns.out);
        for (int64_t job = begin; job < end; ++job) {
            const int64_t row = job % rows.out, depth = job / rows.out % depths.out;
            const int64_t image_group = job / rows.out / depths.out, n = image_group / ratio.groups;
            std::fill(sums.begin(), sums.end(), 0);
            std::fill(counts.begin(), counts.end(), 0);
            for (int64_t t = 0; t < depths.window; ++t) {
                const int64_t z = source_of(depths, w.transposed, depth, t);
                for (int64_t r = 0; z >= 0 && r < rows.window; ++r) {
                    const int64_t y = source_of(rows, w.transposed, row, r);
                    if (y < 0) continue;
                    const int64_t offset = (z * rows.in + y) * columns.in;
                    if (per_channel)
                        add_counts(channels.data() + image_group * mask.plane + offset, columns.in, sums.data());
                    else
                        add_bytes(
                            mask.bytes ? mask.bytes + n * mask.batch_step + offset : valid_row.data(), columns.in,
                            sums.data());
                }
            }
            (w.transposed ? scatter_columns : add_columns)(columns, sums.data(), counts.data());
            const int32_t full =
                int32_t(w.channels * taps_of(depths, w.transposed, depth) * taps_of(rows, w.transposed, row));
            const int64_t first = job * columns.out;
            const bool row_full = w.dtype == DType::f64
                                      ? finish_row_f64(
                                            counts.data(), taps.data(), full, scale, columns.out,
                                            static_cast<double*>(ratio.values) + first, new_mask + first)
                                      : finish_row_f32(
                                            counts.data(), taps.data(), full, scale, columns.out,
                                            static_cast<float*>(ratio.values) + first, new_mask + first);
            if (!row_full) all_full = false;
        }
    });
    return all_full;
}

}  // namespace pconv::cpu
