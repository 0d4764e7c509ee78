// fprop and dgrad on wgmma: the product of gemm/params.h with the gather of gemm/loader.cuh, warp-specialised.
//
//   rows      rows x 64 channels of a tap, gathered by cp.async under the mask's predicates, K-major
//   columns   fprop: columns x 64 channels, a TMA box of the filters [K, R * S, C] as (channel, tap, filter), K-major
//             dgrad: 64 filters x columns, the same tensor as it lies, MN-major, a box for each 64 columns
//
// The tiles' tables, the order of the K loop and the epilogue are those of the sm_80 kernels.
#pragma once

#include "../gemm/kernel.cuh"
#include "../ptx/tensor_map.cuh"
#include "sm90_product.cuh"

namespace pconv::cuda {

template <class Params>
struct WgmmaGemm {
    TensorMap filters[Params::filter_tensors];  // first: they have to be aligned to 64 bytes
    Params gemm;
};

template <class Tile>
constexpr size_t wgmma_gemm_shared_bytes = Tile::pipeline_bytes + Tile::barrier_bytes + sizeof(Tables<Tile>);

template <class Tile>
constexpr bool has_room(TileId id) {
    return int64_t(wgmma_gemm_shared_bytes<Tile>) <= tile_shapes[static_cast<int>(id)].shared_bytes;
}
static_assert(has_room<Wgmma256>(TileId::wgmma_128x256) && has_room<Wgmma128>(TileId::wgmma_128x128), "as in tiles.h");
static_assert(has_room<Wgmma64>(TileId::wgmma_128x64) && has_room<WgmmaTall64>(TileId::wgmma_256x64), "as in tiles.h");
static_assert(
    has_room<WgmmaTall256>(TileId::wgmma_192x256) && has_room<WgmmaTall128>(TileId::wgmma_256x128), "as in tiles.h");

// A block's part of the K loop.
struct Steps {
    int begin, end;
};

// By one thread: the coming step's filters.
template <class Tile, Filters order>
PCONV_DEV void fetch_filters(const TensorMap* filters, const FilterBox& box, uint32_t tile, uint32_t barrier) {
    mbarrier_arrive_expect(barrier, Tile::columns_bytes);
    if (order == Filters::k_major) {
        tma_load_3d(tile, filters + box.tensor, box.channel, box.tap, box.filter, barrier);
    } else {
#pragma unroll
        for (int panel = 0; panel < Tile::columns / 64; ++panel)
            tma_load_3d(tile + panel * 64 * 128, filters, box.filter + panel * 64, box.tap, box.channel, barrier);
    }
}

template <class Side, class Tile, Filters order>
PCONV_DEV void produce(
    const WgmmaGemm<typename Side::Params>& call, const Tables<Tile>& tables, const Ring<Tile>& ring, int column0,
    int thread, Steps steps) {
    typename Side::Load loader(call.gemm, tables, thread, column0);
    loader.seek(steps.begin);
    Turn<Tile> turn;
    for (int step = steps.begin; step < steps.end; ++step) {
        wait_empty(ring, turn);
        if (thread == 0)
            fetch_filters<Tile, order>(
                call.filters, loader.filter_box(), ring.stage(turn.stage) + Tile::rows_bytes, ring.full(turn.stage));
        loader.load_source(ring.stage(turn.stage));
        cp_async_mbarrier_arrive(ring.full(turn.stage));
        loader.advance();
        turn.advance();
    }
}

template <Pass pass, class Math, class Tile, Filters order>
PCONV_DEV void consume(
    const Output& output, const Tables<Tile>& tables, const Ring<Tile>& ring, uint8_t* shared, int column0, int split,
    Steps steps) {
    const int consumer = warpgroup_index(), thread = threadIdx.x;
    float* const staging = reinterpret_cast<float*>(shared);
    if (steps.begin < steps.end) {
        const WgmmaProduct<Math, Tile, k_major, order == Filters::k_major ? k_major : mn_major> product(ring, consumer);
        float sums[Tile::shares][Tile::width / 2];
        product.run(sums, steps.end - steps.begin, thread);
        // The staging takes the memory of the stages, which the other consumer may still be reading.
        named_barrier(consumers_barrier, Tile::consumers);
        stage_accumulators<Tile>(sums, consumer, thread, staging);
    } else {  // nothing but holes, or a split without a step
        for (int i = thread; i < Tile::rows * Tile::staging_pitch; i += Tile::consumers) staging[i] = 0.f;
    }
    named_barrier(consumers_barrier, Tile::consumers);
    if (is_forward<pass> && output.ratio && blockIdx.y == 0 && split == 0) store_ratio(output, tables, thread);
    if (output.partial)
        store_partial(output, tables, staging, column0, split, thread);
    else if (output.nchw)
        store_planes<pass, Math>(output, tables, staging, column0, thread);
    else
        store_rows<pass, Math>(output, tables, staging, column0, thread);
}

template <Pass pass, class Math, class Tile, Filters order>
using WgmmaCall = WgmmaGemm<typename Gather<pass, Math, Tile, order>::Params>;

template <Pass pass, class Math, class Tile, Filters order>
PCONV_DEV void run_wgmma_gemm(const WgmmaCall<pass, Math, Tile, order>& call, uint8_t* shared) {
    using Side = Gather<pass, Math, Tile, order>;
    const typename Side::Params& p = call.gemm;
    Tables<Tile>& tables = *reinterpret_cast<Tables<Tile>*>(shared + Tile::pipeline_bytes + Tile::barrier_bytes);
    const Ring<Tile> ring{smem_u32(shared), smem_u32(shared) + Tile::pipeline_bytes};
    const BlockPart part(p.tiling);
    const int column0 = blockIdx.y * Tile::columns;
    if (threadIdx.x == 0) ring.initialise();
    // Ends with a barrier, which shows the ring's barriers to all.
    Side::prepare(p, tables, blockIdx.x, part.parity_class);

    const int all = LoopPlace<Math, Tile>(p, tables).steps();
    const Steps steps{part.begin(all), part.end(all)};
    if (is_producer<Tile>()) {
        if constexpr (Tile::moves_registers) registers_decrease<Tile::producer_registers>();
        produce<Side, Tile, order>(call, tables, ring, column0, threadIdx.x - Tile::consumers, steps);
    } else {
        if constexpr (Tile::moves_registers) registers_increase<Tile::consumer_registers>();
        consume<pass, Math, Tile, order>(p.output, tables, ring, shared, column0, part.split, steps);
    }
}

// Grid: x tiles of rows, y tiles of columns, z splits of the K loop (and, for dgrad, parity classes).
template <Pass pass, class Math, class Tile, Filters order>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_per_sm)
    wgmma_gemm_kernel(const __grid_constant__ WgmmaCall<pass, Math, Tile, order> call) {
    PCONV_DYN_SMEM(shared);
    if constexpr (hopper_instructions) run_wgmma_gemm<pass, Math, Tile, order>(call, shared);
}

// fprop and dgrad: one tensor of filters, and it lies as [filter_rows][R * S][filter_channels].
template <class Math, class Tile, Filters order>
cudaError_t map_filters(const GemmParams& p, TensorMap* filters) {
    const int box = order == Filters::k_major ? Tile::columns : 64;
    return make_tensor_map_3d(
        filters, p.filters, std::is_same<Math, Bf16>::value, p.filter_channels, p.window.r * p.window.s, p.filter_rows,
        box);
}

template <Pass pass, class Math, class Tile, Filters order>
Status launch_wgmma_gemm(
    const char* name, const typename Gather<pass, Math, Tile, order>::Params& p, cudaStream_t stream) {
    static const cudaError_t body = check_body(wgmma_gemm_kernel<pass, Math, Tile, order>);
    if (body != cudaSuccess) return {body, name};
    if (p.tiling.taps_per_step != 1) return {cudaErrorInvalidValue, name};  // TMA brings one tap a step
    WgmmaCall<pass, Math, Tile, order> call{};
    call.gemm = p;
    const cudaError_t mapped = map_filters<Math, Tile, order>(p, call.filters);
    if (mapped != cudaSuccess) return {mapped, name};
    return launch(
        name, wgmma_gemm_kernel<pass, Math, Tile, order>, Gather<pass, Math, Tile, order>::grid(p), dim3(Tile::threads),
        wgmma_gemm_shared_bytes<Tile>, stream, call);
}

template <Pass pass, Filters order, class Params>
Status launch_wgmma(MathId math, TileId tile, const Params& p, cudaStream_t stream) {
    const char* const name = gemm_name(pass, tile);
    return by_half_math(math, name, [&](auto type) {
        using Math = typename decltype(type)::type;
        switch (tile) {
            case TileId::wgmma_128x128: return launch_wgmma_gemm<pass, Math, Wgmma128, order>(name, p, stream);
            case TileId::wgmma_128x64: return launch_wgmma_gemm<pass, Math, Wgmma64, order>(name, p, stream);
            case TileId::wgmma_192x256: return launch_wgmma_gemm<pass, Math, WgmmaTall256, order>(name, p, stream);
            case TileId::wgmma_256x128: return launch_wgmma_gemm<pass, Math, WgmmaTall128, order>(name, p, stream);
            case TileId::wgmma_256x64: return launch_wgmma_gemm<pass, Math, WgmmaTall64, order>(name, p, stream);
            case TileId::wgmma_128x256: return launch_wgmma_gemm<pass, Math, Wgmma256, order>(name, p, stream);
            default: return Status{cudaErrorInvalidValue, name};
        }
    });
}

}  // namespace pconv::cuda
