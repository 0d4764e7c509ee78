// The weight gradient on wgmma: the product of wgrad.cu, 64 or 128 filters by 128 or 256 (tap, channel) columns, 64
// pixels a step.
//
//   rows      64 pixels x filters of the scaled gradient [N * P * Q, k_padded], a TMA box for each 64 filters
//   columns   64 pixels x columns of x, gathered by cp.async as in wgrad_loader.cuh: the mask's byte is the predicate
//
// Both lie with the reduction (pixels) as the slow dimension: both are MN-major operands, nothing is transposed.
#include "../gemm/wgrad_loader.cuh"
#include "../launch.cuh"
#include "../ptx/tensor_map.cuh"
#include "sm90.h"
#include "sm90_product.cuh"

namespace pconv::cuda {
namespace {

struct WgmmaWgrad {
    TensorMap scaled;  // first: it has to be aligned to 64 bytes
    WgradParams wgrad;
};

constexpr int pixels_per_step = 64;

// By one thread: the step's pixels of the gradient. Pixels and filters that do not exist are zeros.
template <class Tile>
PCONV_DEV void fetch_gradient(const WgmmaWgrad& call, int row0, int first_pixel, uint32_t tile, uint32_t barrier) {
    mbarrier_arrive_expect(barrier, Tile::rows_bytes);
#pragma unroll
    for (int panel = 0; panel < Tile::rows / 64; ++panel)
        tma_load_3d(tile + panel * 64 * 128, &call.scaled, row0 + panel * 64, 0, first_pixel, barrier);
}

// Under way at once: places of the third step from here, offsets and mask bytes of the next two, copies of this one. A
// mask's byte comes from DRAM, which takes as long as half a step: asked for one step ahead it held up every second
// one.
template <class Math, class Tile>
PCONV_DEV void produce(
    const WgmmaWgrad& call, WgradTables<Math>& tables, const Ring<Tile>& ring, int row0, int column0, int begin,
    int end) {
    using Loader = WgradLoader<Math, Tile>;
    const WgradParams& p = call.wgrad;
    const int thread = threadIdx.x - Tile::consumers, last_pixel = min(p.n * p.p * p.q, end * pixels_per_step);
    const Loader loader(p, tables, thread, row0, column0, last_pixel);
    typename Loader::Gathered even, odd;
    const auto prepare = [&](int step, int slot, typename Loader::Gathered& own) {
        // The step's places have been written, and those that the next ones overwrite are no longer read.
        named_barrier(producers_barrier, Tile::producers);
        loader.prepare(slot, own);
        loader.locate((step + 1) * pixels_per_step, slot ^ 1);
    };
    loader.locate(begin * pixels_per_step, 0);
    prepare(begin, 0, even);
    prepare(begin + 1, 1, odd);
    Turn<Tile> turn;
    const auto fill = [&](int step, int slot, typename Loader::Gathered& own) {
        wait_empty(ring, turn);
        if (thread == 0)
            fetch_gradient<Tile>(call, row0, step * pixels_per_step, ring.stage(turn.stage), ring.full(turn.stage));
        loader.load_x(ring.stage(turn.stage) + Tile::rows_bytes, own);
        cp_async_mbarrier_arrive(ring.full(turn.stage));
        turn.advance();
        prepare(step + 2, slot, own);
    };
    for (int step = begin; step < end; step += 2) {
        fill(step, 0, even);
        if (step + 1 < end) fill(step + 1, 1, odd);
    }
}

// Straight from the registers: four lanes write 32 bytes of a row, which is what memory moves at least.
template <class Tile, int count>
PCONV_DEV void store_sums(
    const WgradParams& p, const float (&sums)[1][count], int row0, int column0, int consumer, int thread) {
    const int columns = p.window.r * p.window.s * p.channels, first = column0 + wgmma_column(thread);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int row = row0 + consumer * 64 + wgmma_row(thread) + half * 8;
        if (row >= p.k) continue;
        float* const out = p.partial + (int64_t(blockIdx.z) * p.k + row) * columns + first;
#pragma unroll
        for (int i = 0; i < count / 4; ++i)
            if (first + i * 8 < columns)  // a multiple of 8
                *reinterpret_cast<float2*>(out + i * 8) =
                    make_float2(sums[0][i * 4 + half * 2], sums[0][i * 4 + half * 2 + 1]);
    }
}

template <class Math, class Tile>
PCONV_DEV void run_wgmma_wgrad(const WgmmaWgrad& call, uint8_t* shared) {
    const WgradParams& p = call.wgrad;
    auto& tables = *reinterpret_cast<WgradTables<Math>*>(shared + Tile::pipeline_bytes + Tile::barrier_bytes);
    const Ring<Tile> ring{smem_u32(shared), smem_u32(shared) + Tile::pipeline_bytes};
    const int column0 = blockIdx.x * Tile::columns, row0 = blockIdx.y * Tile::rows;
    const int steps = (p.n * p.p * p.q + pixels_per_step - 1) / pixels_per_step;
    const int begin = int(int64_t(steps) * blockIdx.z / p.splits),
              end = int(int64_t(steps) * (blockIdx.z + 1) / p.splits);
    if (threadIdx.x == 0) ring.initialise();
    __syncthreads();
    if (is_producer<Tile>()) {
        if constexpr (Tile::moves_registers) registers_decrease<Tile::producer_registers>();
        produce<Math, Tile>(call, tables, ring, row0, column0, begin, end);
    } else {
        if constexpr (Tile::moves_registers) registers_increase<Tile::consumer_registers>();
        const int consumer = warpgroup_index(), thread = threadIdx.x;
        const WgmmaProduct<Math, Tile, mn_major, mn_major> product(ring, consumer);
        float sums[1][Tile::width / 2];
        product.run(sums, end - begin, thread);
        store_sums<Tile>(p, sums, row0, column0, consumer, thread);
    }
}

// Grid: x tiles of columns, y tiles of filters, z splits of the pixels.
template <class Math, class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_per_sm)
    wgmma_wgrad_kernel(const __grid_constant__ WgmmaWgrad call) {
    PCONV_DYN_SMEM(shared);
    if constexpr (hopper_instructions) run_wgmma_wgrad<Math, Tile>(call, shared);
}

template <class Math, class Tile>
Status launch_wgmma_wgrad(const char* name, const WgradParams& p, cudaStream_t stream) {
    static const cudaError_t body = check_body(wgmma_wgrad_kernel<Math, Tile>);
    if (body != cudaSuccess) return {body, name};
    const int64_t pixels = int64_t(p.n) * p.p * p.q;
    // A split without a step would have no sums: its accumulators are overwritten, never zeroed.
    if (p.splits > (pixels + pixels_per_step - 1) / pixels_per_step) return {cudaErrorInvalidValue, name};
    WgmmaWgrad call{};
    call.wgrad = p;
    const cudaError_t mapped = make_tensor_map_3d(
        &call.scaled, p.scaled, std::is_same<Math, Bf16>::value, p.k_padded, 1, pixels, pixels_per_step);
    if (mapped != cudaSuccess) return {mapped, name};
    const int columns = p.window.r * p.window.s * p.channels;
    const dim3 grid((columns + Tile::columns - 1) / Tile::columns, (p.k + Tile::rows - 1) / Tile::rows, p.splits);
    constexpr size_t bytes = Tile::pipeline_bytes + Tile::barrier_bytes + sizeof(WgradTables<Math>);
    return launch(name, wgmma_wgrad_kernel<Math, Tile>, grid, dim3(Tile::threads), bytes, stream, call);
}

}  // namespace

Status sm90_wgrad(MathId math, TileId tile, const WgradParams& p, cudaStream_t stream) {
    const char* const name = gemm_name(Pass::wgrad, tile);
    return by_half_math(math, name, [&](auto type) {
        using Math = typename decltype(type)::type;
        switch (tile) {
            case TileId::wgmma_128x128: return launch_wgmma_wgrad<Math, Wgmma128Wgrad>(name, p, stream);
            case TileId::wgmma_64x256: return launch_wgmma_wgrad<Math, WgmmaSlimWgrad>(name, p, stream);
            case TileId::wgmma_128x256: return launch_wgmma_wgrad<Math, Wgmma256Wgrad>(name, p, stream);
            default: return Status{cudaErrorInvalidValue, name};
        }
    });
}

}  // namespace pconv::cuda
