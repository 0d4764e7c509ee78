// From staged fp32 sums to the output: ratio, bias and select, in the output's layout, 16 bytes a store where it
// permits. `thread` counts from 0 to Tile::store_threads: not every kernel's threads all take part.
#pragma once

#include "fragments.cuh"
#include "gather.cuh"
#include "numeric.cuh"

namespace pconv::cuda {

template <Pass pass>
constexpr bool is_forward = pass == Pass::fprop || pass == Pass::upcat;

// Forward: scale > 0 ? activation of (scale * sum + bias) : 0. dgrad: a select by the mask of the column's block.
template <Pass pass, class Math, class Tile>
PCONV_DEV float finished(const GemmParams& p, const Tables<Tile>& tables, float sum, int row, int column) {
    if (is_forward<pass>) {
        const float scale = tables.row_scale[row];
        if (PCONV_PLANT(10))
            return sum + (p.bias ? Math::load(static_cast<const typename Math::Storage*>(p.bias)[column]) : 0.f);
        if (!(scale > 0.f)) return 0.f;
        const float bias = p.bias ? Math::load(static_cast<const typename Math::Storage*>(p.bias)[column]) : 0.f;
        return activated(sum * scale + bias, PCONV_PLANT(150) ? 1.f : p.slope);
    }
    int block = 0;
    while (block < p.mask.blocks - 1 && column >= p.mask.first[block + 1]) ++block;
    return tables.row_blocks[row] >> block & 1 ? sum : 0.f;
}

template <class T, int count>
struct alignas(sizeof(T) * count) Run {
    T values[count];
};

// channels_last: neighbouring threads have neighbouring columns.
template <Pass pass, class Math, class Tile>
PCONV_DEV void store_rows(
    const GemmParams& p, const Tables<Tile>& tables, const float* staging, int column0, int thread) {
    using T = typename Math::Storage;
    constexpr int run = Math::chunk, runs = Tile::columns / run;
    for (int id = thread; id < Tile::rows * runs; id += Tile::store_threads) {
        const int row = id / runs, first = id % runs * run, column = column0 + first;
        if (tables.row_out[row] < 0 || column >= p.columns) continue;
        const int64_t pixel = int64_t(tables.row_image[row]) * p.out_h * p.out_w + tables.row_out[row];
        T* const out = static_cast<T*>(p.out) + pixel * p.columns + column;
        Run<T, run> values;
#pragma unroll
        for (int e = 0; e < run; ++e) {
            const bool exists = column + e < p.columns;
            values.values[e] =
                exists ? Math::store(
                             finished<pass, Math>(
                                 p, tables, staging[row * Tile::staging_pitch + first + e], row, column + e))
                       : Math::store(0.f);
        }
        if (p.columns % run == 0 && !PCONV_PLANT(11)) {
            *reinterpret_cast<Run<T, run>*>(out) = values;
        } else {
            for (int e = 0; e < run && (column + e < p.columns || PCONV_PLANT(11)); ++e) out[e] = values.values[e];
        }
    }
}

// NCHW: a thread has one column and a run of rows, which are neighbouring pixels unless an image ends among them.
template <Pass pass, class Math, class Tile>
PCONV_DEV void store_planes(
    const GemmParams& p, const Tables<Tile>& tables, const float* staging, int column0, int thread) {
    using T = typename Math::Storage;
    constexpr int run = Math::chunk;
    const int64_t plane = int64_t(p.out_h) * p.out_w;
    for (int id = thread; id < Tile::rows / run * Tile::columns; id += Tile::store_threads) {
        const int column = id % Tile::columns, first = id / Tile::columns * run, last = first + run - 1;
        if (column0 + column >= p.columns) continue;
        Run<T, run> values;
#pragma unroll
        for (int e = 0; e < run; ++e)
            values.values[e] = Math::store(
                finished<pass, Math>(
                    p, tables, staging[(first + e) * Tile::staging_pitch + column], first + e, column0 + column));
        const auto place = [&](int row) {
            return (int64_t(tables.row_image[row]) * p.columns + column0 + column) * plane + tables.row_out[row];
        };
        // A tile of the decoder's stage has every other pixel, or squares of four: never a run.
        const bool neighbours = (pass != Pass::upcat || PCONV_PLANT(158)) && tables.row_out[first] >= 0 &&
                                tables.row_image[first] == tables.row_image[last] &&
                                tables.row_out[last] == tables.row_out[first] + run - 1;
        // The address itself is asked: a batch that is launched in parts begins anywhere.
        T* const out = neighbours ? static_cast<T*>(p.out) + place(first) : nullptr;
        if (neighbours && reinterpret_cast<uintptr_t>(out) % sizeof values == 0) {
            *reinterpret_cast<Run<T, run>*>(out) = values;
        } else {
            for (int e = 0; e < run; ++e)
                if (tables.row_out[first + e] >= 0) static_cast<T*>(p.out)[place(first + e)] = values.values[e];
        }
    }
}

// One split's share, finished later by finish_splits.
template <class Tile>
PCONV_DEV void store_partial(
    const GemmParams& p, const Tables<Tile>& tables, const float* staging, int column0, int split, int thread) {
    const int64_t pixels = int64_t(p.n) * p.out_h * p.out_w;
    for (int id = thread; id < Tile::rows * Tile::columns; id += Tile::store_threads) {
        const int row = id / Tile::columns, column = id % Tile::columns;
        if (tables.row_out[row] < 0 || column0 + column >= p.columns) continue;
        const int64_t pixel = int64_t(tables.row_image[row]) * p.out_h * p.out_w + tables.row_out[row];
        p.partial[(split * pixels + pixel) * p.columns + column0 + column] =
            staging[row * Tile::staging_pitch + column];
    }
}

// The ratio and the new mask, once a pixel; a mask of batch 1 has them once for all images.
template <class Tile>
PCONV_DEV void store_ratio(const GemmParams& p, const Tables<Tile>& tables, int thread) {
    for (int row = thread; row < Tile::rows; row += Tile::store_threads) {
        if (tables.row_out[row] < 0 || tables.row_image[row] >= p.ratio_n) continue;
        const int64_t pixel = int64_t(tables.row_image[row]) * p.out_h * p.out_w + tables.row_out[row];
        p.ratio[pixel] = tables.row_scale[row];
        p.alive[pixel] = tables.row_scale[row] > 0.f;
    }
}

}  // namespace pconv::cuda
