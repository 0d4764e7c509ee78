// What the sm_90a kernels (wgmma) have in common: the shape of a block's work and the ring of stages through which its
// last warps, the producers, hand tiles to one or two warpgroups, the consumers.
//
//   producers   wait until a stage is empty, gather one operand by cp.async, let TMA bring the other one
//   consumers   wait until it is full, multiply their share, and give the stage back when the product has been made
//
// A stage is two tiles of 128-byte rows with the 128-byte swizzle: of the block's rows, then of its columns.
#pragma once

#include "../plan/tiles.h"
#include "../ptx/sm90.cuh"

namespace pconv::cuda {

// wgmma multiplies 64 of its left operand by up to 256 of its right one, and shared memory brings it both: 80 bytes a
// cycle of the tensor cores at a width of 256, 96 at 128, and 128, which is all that there is, at 64. So the wider side
// of a tile is to be the right operand, and the consumers share out the other one.
enum class Right { rows, columns };

// Rows: pixels, of weight gradients filters. Register counts: those after setmaxnreg, whose sum over the warpgroups is
// what the block got at its start; none: every thread keeps what it got.
template <
    int Rows, int Columns, Right Wide, int Consumers, int Stages, int BlocksPerSm, int Producers,
    int ProducerRegisters = 0, int ConsumerRegisters = 0>
struct WgmmaTile {
    static constexpr int rows = Rows, columns = Columns, stages = Stages, blocks_per_sm = BlocksPerSm;
    static constexpr int producers = Producers, consumers = Consumers, threads = producers + consumers,
                         warps = threads / 32;
    static constexpr int producer_registers = ProducerRegisters, consumer_registers = ConsumerRegisters;
    static constexpr int copy_threads = producers, store_threads = consumers;
    static constexpr int row_step = producers / 8, rows_per_thread = rows / row_step;  // of the gather, as in tile.h
    static constexpr bool columns_are_left = Wide == Right::rows;
    // Of an instruction: its width, and how many of 64 one behind the other a consumer's share has.
    static constexpr int width = columns_are_left ? Rows : Columns;
    static constexpr int shares = (columns_are_left ? Columns : Rows) / 64 / (Consumers / 128);
    static constexpr int rows_bytes = rows * 128, columns_bytes = Columns * 128,
                         stage_bytes = rows_bytes + columns_bytes;
    // Padding against bank conflicts of what writes the sums: neighbouring lanes have two columns of a row, or two rows
    // of a column.
    static constexpr int staging_pitch = Columns + (columns_are_left ? 4 : 8);
    static constexpr int pipeline_bytes =
        Stages * stage_bytes > rows * staging_pitch * 4 ? Stages * stage_bytes : rows * staging_pitch * 4;
    static constexpr int barrier_bytes = 2 * Stages * 8;
    static constexpr int registers_at_start = 65536 / (threads * BlocksPerSm) / 8 * 8;
    static constexpr bool moves_registers = ProducerRegisters > 0;
    // L1 and shared memory are one memory, whose bandwidth bounds these kernels: through L1 a byte crosses it twice
    // more. Weight gradients gather through it where several taps meet in a tile (gemm/wgrad_loader.cuh).
    static constexpr bool gathers_through_l1 = false;
    static_assert(
        !moves_registers || (Producers == 128 && Consumers == 256 &&
                             ProducerRegisters + 2 * ConsumerRegisters <= 3 * registers_at_start),
        "setmaxnreg is for whole warpgroups, and would wait for ever");
    static_assert(registers_at_start >= width / 2 + 26, "ptxas wants as many for one wgmma, whatever setmaxnreg says");
    static_assert(width == 64 || width == 128 || width == 192 || width == 256, "a width of wgmma (ptx/wgmma.cuh)");
    static_assert(Columns % 64 == 0 && shares > 0 && Rows % row_step == 0 && row_step % 8 == 0, "whole panels");
};

// The narrow tiles are there twice or three times on a multiprocessor: one block's products then hide the others'
// waits.
using Wgmma256 = WgmmaTile<128, 256, Right::columns, 256, 3, 1, 128, 56, 224>;
using Wgmma128 = WgmmaTile<128, 128, Right::columns, 256, 3, 2, 64>;
using Wgmma64 = WgmmaTile<128, 64, Right::columns, 256, 2, 3, 64>;
// Pixels as the wide operand: 192 of them fill one round of blocks where 128 would fill one and a half, and 256 make up
// for few columns.
using WgmmaTall256 = WgmmaTile<192, 256, Right::rows, 256, 3, 1, 128, 40, 232>;
using WgmmaTall128 = WgmmaTile<256, 128, Right::rows, 256, 4, 1, 128, 56, 224>;
using WgmmaTall64 = WgmmaTile<256, 64, Right::rows, 128, 2, 2, 64>;
// The weight gradient's producers keep the offsets and mask bytes of two steps ahead in registers.
using Wgmma256Wgrad = WgmmaTile<128, 256, Right::columns, 256, 3, 1, 128, 120, 192>;
using Wgmma128Wgrad = WgmmaTile<128, 128, Right::columns, 256, 4, 1, 128, 88, 208>;
// Few filters have few products, and twice as many producers keep up with them.
using WgmmaSlimWgrad = WgmmaTile<64, 256, Right::columns, 128, 3, 1, 256>;

template <class Tile>
constexpr bool has_shape(TileId id) {
    const TileShape& shape = tile_shapes[static_cast<int>(id)];
    return shape.rows == Tile::rows && shape.columns == Tile::columns && shape.most_resident == Tile::blocks_per_sm;
}
static_assert(
    has_shape<Wgmma256>(TileId::wgmma_128x256) && has_shape<Wgmma128>(TileId::wgmma_128x128), "as in tiles.h");
static_assert(
    has_shape<Wgmma64>(TileId::wgmma_128x64) && has_shape<WgmmaTall64>(TileId::wgmma_256x64), "as in tiles.h");
static_assert(
    has_shape<WgmmaTall256>(TileId::wgmma_192x256) && has_shape<WgmmaTall128>(TileId::wgmma_256x128), "as in tiles.h");
static_assert(has_shape<WgmmaSlimWgrad>(TileId::wgmma_64x256), "as in tiles.h");

// Barriers of the stages, behind each other in shared memory. Both sides walk the ring in the same order.
template <class Tile>
struct Ring {
    uint32_t stages, barriers;  // shared addresses

    PCONV_DEV uint32_t stage(int index) const { return stages + index * Tile::stage_bytes; }
    PCONV_DEV uint32_t full(int index) const { return barriers + index * 8; }
    PCONV_DEV uint32_t empty(int index) const { return barriers + (Tile::stages + index) * 8; }

    // By one thread; the __syncthreads that follows shows the barriers to the others.
    PCONV_DEV void initialise() const {
        for (int index = 0; index < Tile::stages; ++index) {
            mbarrier_init(full(index), Tile::producers + 1);    // every producer's copies, and TMA's
            mbarrier_init(empty(index), Tile::consumers / 32);  // every consumer warp
        }
        mbarrier_init_fence();
    }
};

// A side's place in the ring. `parity` is that of the round, which is what the barriers' phases are told apart by.
template <class Tile>
struct Turn {
    int stage = 0, parity = 0;
    PCONV_DEV void advance() {
        if (++stage == Tile::stages) stage = 0, parity ^= 1;
    }
};

// The producers' wait. In the first round nothing has been read yet: the phase before the first one counts as ended.
template <class Tile>
PCONV_DEV void wait_empty(const Ring<Tile>& ring, const Turn<Tile>& turn) {
    mbarrier_wait(ring.empty(turn.stage), turn.parity ^ 1);
}

// Consumers come first, for a warpgroup begins at a multiple of 128 threads. The same number in every lane of a warp,
// and known to be so: descriptors then stay in uniform registers.
PCONV_DEV int warpgroup_index() { return __shfl_sync(0xffffffffu, int(threadIdx.x) / 128, 0); }

template <class Tile>
PCONV_DEV bool is_producer() {
    return warpgroup_index() >= Tile::consumers / 128;
}

// Whether the kernel that this device would run is the sm_90a one. In a build without that architecture it would be
// another one's empty body, which takes few registers and leaves the output as it was.
template <class Kernel>
cudaError_t check_body(Kernel* kernel) {
#ifdef PCONV_EMULATE
    return kernel ? cudaSuccess : cudaErrorInvalidValue;
#else
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
    if (error != cudaSuccess) return cudaGetLastError();                              // not mistaken for another call's
    return attributes.numRegs >= 56 ? cudaSuccess : cudaErrorNoKernelImageForDevice;  // m64n64 alone needs 58
#endif
}

constexpr int consumers_barrier = 1, producers_barrier = 2;  // named barriers; 0 is __syncthreads

}  // namespace pconv::cuda
