// The consumers' side: a warpgroup's share of one side of the tile times all of the other one, by wgmma, out of the
// ring.
//
// The accumulators are never zeroed: the first step overwrites them, which is why it stands before the loop. With
// a condition inside the loop, or zeros moved in between, ptxas serialises the products (C7515).
#pragma once

#include "../gemm/fragments.cuh"
#include "../ptx/wgmma.cuh"
#include "sm90_tile.cuh"

#include <type_traits>

namespace pconv::cuda {

constexpr int k_major = 0, mn_major = 1;  // as wgmma numbers them

template <class Math, class Tile, int rows_major, int columns_major>
struct WgmmaProduct {
    static constexpr int left_major = Tile::columns_are_left ? columns_major : rows_major;
    static constexpr int right_major = Tile::columns_are_left ? rows_major : columns_major;
    static constexpr int shares = Tile::shares, count = Tile::width / 2;  // of accumulators a thread
    static constexpr int panel_bytes = 64 * 128;                          // MN-major: 64 deep, 64 rows or columns wide
    // Bytes from one 16 of the depth to the next: 16 elements of a row, or 16 rows.
    static constexpr int left_step = left_major == k_major ? 32 : 2048, right_step = right_major == k_major ? 32 : 2048;

    Ring<Tile> ring;
    uint64_t left, right;  // descriptors of stage 0

    // Either way 64 of the left operand are 8192 bytes: 64 rows of 128 bytes, or one panel.
    PCONV_DEV WgmmaProduct(const Ring<Tile>& shared_ring, int consumer) : ring(shared_ring) {
        const uint32_t rows = ring.stage(0), columns = rows + Tile::rows_bytes;
        const uint32_t own = consumer * (shares * panel_bytes);
        left = wgmma_descriptor((Tile::columns_are_left ? columns : rows) + own, panel_bytes, 1024);
        right = wgmma_descriptor(Tile::columns_are_left ? rows : columns, panel_bytes, 1024);
    }

    PCONV_DEV void multiply(float (&sums)[shares][count], int stage, bool first) const {
        const uint64_t offset = uint64_t(stage * Tile::stage_bytes) >> 4;  // addresses are counted in 16 bytes
        wgmma_fence();
#pragma unroll
        for (int sixteen = 0; sixteen < 4; ++sixteen)
#pragma unroll
            for (int share = 0; share < shares; ++share) {
                const uint64_t a = left + offset + (share * panel_bytes + sixteen * left_step) / 16;
                const uint64_t b = right + offset + sixteen * right_step / 16;
                if constexpr (std::is_same<Math, Bf16>::value)
                    wgmma_bf16<left_major, right_major>(sums[share], a, b, !(first && sixteen == 0));
                else
                    wgmma_f16<left_major, right_major>(sums[share], a, b, !(first && sixteen == 0));
            }
        wgmma_commit();
    }

    PCONV_DEV static void pin(float (&sums)[shares][count]) {
#pragma unroll
        for (int share = 0; share < shares; ++share) wgmma_pin(sums[share]);
    }

    // The copies are ordinary writes of other threads: visible to them after the barrier, to wgmma after the fence. The
    // producers have no place for it, for their copies arrive at the barrier by themselves.
    PCONV_DEV void wait_full(const Turn<Tile>& turn) const {
        mbarrier_wait(ring.full(turn.stage), turn.parity);
        fence_proxy_async();
    }

    // At least one step. Afterwards the sums may be read, and the ring may not be used.
    PCONV_DEV void run(float (&sums)[shares][count], int steps, int thread) const {
        Turn<Tile> turn;
        wait_full(turn);
        multiply(sums, turn.stage, true);
        for (int step = 1; step < steps; ++step) {
            const int before = turn.stage;
            turn.advance();
            wait_full(turn);
            multiply(sums, turn.stage, false);
            pin(sums);
            wgmma_wait<1>();  // the products of the step before have been made, this one's are under way
            pin(sums);
            mbarrier_arrive_if(ring.empty(before), thread % 32 == 0);
        }
        pin(sums);
        wgmma_wait<0>();
        pin(sums);
    }
};

// Which row and column of a warpgroup's 64 x width an accumulator belongs to: four at a time, two neighbouring columns
// of a row and the same of the row 8 below. Where columns are the left operand, rows and columns change places.
PCONV_DEV int wgmma_row(int thread) { return thread % 128 / 32 * 16 + thread % 32 / 4; }
PCONV_DEV int wgmma_column(int thread) { return thread % 4 * 2; }

// The accumulators as rows of fp32 in shared memory, for the epilogue.
template <class Tile, int shares, int count>
PCONV_DEV void stage_accumulators(const float (&sums)[shares][count], int consumer, int thread, float* staging) {
    constexpr int pitch = Tile::staging_pitch;
#pragma unroll
    for (int share = 0; share < shares; ++share) {
        const int left = (consumer * shares + share) * 64 + wgmma_row(thread), right = wgmma_column(thread);
        float* const first = staging + (Tile::columns_are_left ? right * pitch + left : left * pitch + right);
#pragma unroll
        for (int i = 0; i < count / 4; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float sum = sums[share][i * 4 + half * 2], next = sums[share][i * 4 + half * 2 + 1];
                if constexpr (Tile::columns_are_left) {
                    first[i * 8 * pitch + half * 8] = sum;
                    first[(i * 8 + 1) * pitch + half * 8] = next;
                } else {
                    *reinterpret_cast<float2*>(first + half * 8 * pitch + i * 8) = make_float2(sum, next);
                }
            }
    }
}

}  // namespace pconv::cuda
