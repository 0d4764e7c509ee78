// From staged fp32 sums to the output: ratio, bias and select, in the output's layout, 16 bytes a store where it
// permits. `thread` counts from 0 to Tile::store_threads: not every kernel's threads all take part.
#pragma once

#include "../numeric.cuh"
#include "fragments.cuh"
#include "prologue.cuh"

namespace pconv::cuda {

template <Pass pass>
constexpr bool is_forward = pass == Pass::fprop || pass == Pass::upcat;

// Forward: scale > 0 ? activation of (scale * sum + bias) : 0. dgrad: a select by the mask of the column's block.
template <Pass pass, class Math, class Tile>
PCONV_DEV float finished(const Output& output, const Tables<Tile>& tables, float sum, int row, int column) {
    if (is_forward<pass>) {
        const float scale = tables.row_scale[row];
        if (!(scale > 0.f)) return 0.f;
        const float bias =
            output.bias ? Math::load(static_cast<const typename Math::Storage*>(output.bias)[column]) : 0.f;
        return activated(sum * scale + bias, output.negative_slope);
    }
    return tables.row_blocks[row] >> (column >= output.second_block) & 1 ? sum : 0.f;
}

template <class T, int count>
struct alignas(sizeof(T) * count) Run {
    T values[count];
};

// What a thread's columns need in every row: forward the bias, dgrad the block whose mask selects the column.
template <Pass pass, class Math>
struct ColumnRun {
    static constexpr int run = Math::chunk;
    float bias[run];
    int block[run];

    PCONV_DEV ColumnRun(const Output& output, int column) {
#pragma unroll
        for (int e = 0; e < run; ++e) {
            bias[e] = 0.f, block[e] = 0;
            if (is_forward<pass>) {
                if (output.bias && column + e < output.columns)
                    bias[e] = Math::load(static_cast<const typename Math::Storage*>(output.bias)[column + e]);
            } else {
                block[e] = column + e >= output.second_block;
            }
        }
    }

    PCONV_DEV float finished(float slope, float sum, int e, float scale, uint32_t valid_blocks) const {
        if (is_forward<pass>) {
            const float value = activated(sum * scale + bias[e], slope);
            return scale > 0.f ? value : 0.f;
        }
        return valid_blocks >> block[e] & 1 ? sum : 0.f;
    }
};

// Where a row's columns lie in a launch's output, which has fewer than 2^31 elements (make_plan sees to it).
template <class Tile>
PCONV_DEV unsigned offset_of_row(const Output& output, const Tables<Tile>& tables, int row) {
    return (tables.row_image[row] * unsigned(output.h * output.w) + tables.row_out[row]) * output.columns;
}

// channels_last: neighbouring threads have neighbouring columns. A thread keeps its columns, so that a row costs it two
// table entries, its sums as vectors, and one store.
template <Pass pass, class Math, class Tile>
PCONV_DEV void store_rows(
    const Output& output, const Tables<Tile>& tables, const float* staging, int column0, int thread) {
    using T = typename Math::Storage;
    constexpr int run = Math::chunk, runs = Tile::columns / run, row_step = Tile::store_threads / runs;
    constexpr int together = Tile::rows / row_step % 4 == 0 ? 4 : 1;  // rows that are read before one is finished
    static_assert(Tile::store_threads % runs == 0, "a thread's rows have the same columns");
    const int first = thread % runs * run, column = column0 + first;
    if (column >= output.columns) return;
    const ColumnRun<pass, Math> columns(output, column);
    const bool whole = output.columns % run == 0;
    const float slope = output.negative_slope;
    T* const out = static_cast<T*>(output.out) + column;
    for (int row0 = thread / runs; row0 < Tile::rows; row0 += together * row_step) {
        int place[together];
        unsigned offset[together];
        float values[together][run];
#pragma unroll
        for (int i = 0; i < together; ++i) {
            const int row = row0 + i * row_step;
            place[i] = tables.row_out[row];
            offset[i] = offset_of_row(output, tables, row);
            const float scale = is_forward<pass> ? tables.row_scale[row] : 0.f;
            const uint32_t valid_blocks = is_forward<pass> ? 0 : tables.row_blocks[row];
#pragma unroll
            for (int part = 0; part < run; part += 4) {
                const float4 sums =
                    *reinterpret_cast<const float4*>(staging + row * Tile::staging_pitch + first + part);
                const float four[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    values[i][part + e] = columns.finished(slope, four[e], part + e, scale, valid_blocks);
            }
        }
#pragma unroll
        for (int i = 0; i < together; ++i) {
            if (place[i] < 0) continue;
            if (whole) {
                *reinterpret_cast<uint4*>(out + offset[i]) = Math::packed(values[i]);
            } else {
#pragma unroll
                for (int e = 0; e < run; ++e)
                    if (column + e < output.columns) out[offset[i] + e] = Math::store(values[i][e]);
            }
        }
    }
}

// NCHW: a thread has one column and a run of rows, which are neighbouring pixels unless an image ends among them.
template <Pass pass, class Math, class Tile>
PCONV_DEV void store_planes(
    const Output& output, const Tables<Tile>& tables, const float* staging, int column0, int thread) {
    using T = typename Math::Storage;
    constexpr int run = Math::chunk;
    const int64_t plane = int64_t(output.h) * output.w;
    for (int id = thread; id < Tile::rows / run * Tile::columns; id += Tile::store_threads) {
        const int column = id % Tile::columns, first = id / Tile::columns * run, last = first + run - 1;
        if (column0 + column >= output.columns) continue;
        Run<T, run> values;
#pragma unroll
        for (int e = 0; e < run; ++e)
            values.values[e] = Math::store(
                finished<pass, Math>(
                    output, tables, staging[(first + e) * Tile::staging_pitch + column], first + e, column0 + column));
        const auto place = [&](int row) {
            return (int64_t(tables.row_image[row]) * output.columns + column0 + column) * plane + tables.row_out[row];
        };
        // A tile of the decoder's stage has every other pixel, or squares of four: never a run.
        const bool neighbours = pass != Pass::upcat && tables.row_out[first] >= 0 &&
                                tables.row_image[first] == tables.row_image[last] &&
                                tables.row_out[last] == tables.row_out[first] + run - 1;
        // The address decides: a batch that is launched in parts may begin anywhere.
        T* const out = neighbours ? static_cast<T*>(output.out) + place(first) : nullptr;
        if (neighbours && reinterpret_cast<uintptr_t>(out) % sizeof values == 0) {
            *reinterpret_cast<Run<T, run>*>(out) = values;
        } else {
            for (int e = 0; e < run; ++e)
                if (tables.row_out[first + e] >= 0) static_cast<T*>(output.out)[place(first + e)] = values.values[e];
        }
    }
}

// One split's share, finished later by finish_splits.
template <class Tile>
PCONV_DEV void store_partial(
    const Output& output, const Tables<Tile>& tables, const float* staging, int column0, int split, int thread) {
    constexpr int runs = Tile::columns / 4, row_step = Tile::store_threads / runs;
    constexpr int together = Tile::rows / row_step % 4 == 0 ? 4 : 1;
    const int first = thread % runs * 4, column = column0 + first;
    if (column >= output.columns) return;
    float* const out = output.partial + int64_t(split) * output.n * output.h * output.w * output.columns + column;
    const bool whole = output.columns % 4 == 0;
    for (int row0 = thread / runs; row0 < Tile::rows; row0 += together * row_step) {
        int place[together];
        unsigned offset[together];
        float4 sums[together];
#pragma unroll
        for (int i = 0; i < together; ++i) {
            const int row = row0 + i * row_step;
            place[i] = tables.row_out[row];
            offset[i] = offset_of_row(output, tables, row);
            sums[i] = *reinterpret_cast<const float4*>(staging + row * Tile::staging_pitch + first);
        }
#pragma unroll
        for (int i = 0; i < together; ++i) {
            if (place[i] < 0) continue;
            if (whole) {
                *reinterpret_cast<float4*>(out + offset[i]) = sums[i];
            } else {
                const float four[4] = {sums[i].x, sums[i].y, sums[i].z, sums[i].w};
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (column + e < output.columns) out[offset[i] + e] = four[e];
            }
        }
    }
}

// The ratio and the new mask, once a pixel; a mask of batch 1 has them once for all images.
template <class Tile>
PCONV_DEV void store_ratio(const Output& output, const Tables<Tile>& tables, int thread) {
    for (int row = thread; row < Tile::rows; row += Tile::store_threads) {
        if (tables.row_out[row] < 0 || tables.row_image[row] >= output.ratio_n) continue;
        const int64_t pixel = int64_t(tables.row_image[row]) * output.h * output.w + tables.row_out[row];
        output.ratio[pixel] = tables.row_scale[row];
        output.new_mask[pixel] = tables.row_scale[row] > 0.f;
    }
}

}  // namespace pconv::cuda
