// The shape of one block's work. Rows are pixels, columns are output channels; a K step is 128 bytes of channels of one
// tap (64 halves or 32 floats), which is one row of swizzled shared memory.
#pragma once

namespace pconv::cuda {

// Of the patches of pixels that a tile's rows are, where they are patches.
template <int rows>
constexpr int patch_height = rows == 256 ? 16 : 8;

template <int Rows, int Columns, int WarpRows, int WarpColumns, int Stages, int BlocksPerSm>
struct Tile {
    static constexpr int rows = Rows, columns = Columns, warp_rows = WarpRows, warp_columns = WarpColumns;
    static constexpr int stages = Stages, blocks_per_sm = BlocksPerSm;
    static constexpr int warps_down = Rows / WarpRows, warps = warps_down * (Columns / WarpColumns),
                         threads = 32 * warps;
    static constexpr int copy_threads = threads, store_threads = threads;  // every thread has every role
    static constexpr int row_bytes = 128;                                  // of a K step
    static constexpr bool gathers_through_l1 = true;                       // where taps of neighbouring pixels meet
    // The gather: 8 threads fill a row, so a thread serves every row_step-th row. row_step is a multiple of 8: the
    // swizzle depends on row % 8 and is then one constant a thread.
    static constexpr int row_step = threads / 8, rows_per_thread = Rows / row_step;
    static constexpr int stage_bytes = (Rows + Columns) * row_bytes;
    // The epilogue stages the accumulators in fp32 in the memory of the pipeline. Eight floats of padding: the four
    // rows that half a warp writes then lie in different banks.
    static constexpr int staging_pitch = Columns + 8;
    static constexpr int pipeline_bytes =
        Stages * stage_bytes > Rows * staging_pitch * 4 ? Stages * stage_bytes : Rows * staging_pitch * 4;
    static_assert(Rows % WarpRows == 0 && Columns % WarpColumns == 0, "warps cover the tile");
    static_assert(row_step % 8 == 0 && Rows % row_step == 0 && rows_per_thread <= 32, "threads cover the rows");
    static_assert(32 % rows_per_thread == 0, "one word of row bits serves whole threads");
};

}  // namespace pconv::cuda
