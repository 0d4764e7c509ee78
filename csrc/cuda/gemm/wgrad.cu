// The weight gradient: partial[split][k][tap][c] = sum over the split's output pixels of
// scaled[pixel][k] * (m ? x : 0)[pixel of the tap][c]. A product of K rows by R * S * C columns, reduced over pixels.
// Splits are summed afterwards in order (reduce_wgrad): the same bits in every run.
#include "../launch.cuh"
#include "../sm90/sm90.h"
#include "wgrad_loader.cuh"

#include <type_traits>

namespace pconv::cuda {
namespace {

template <class Math, class Tile>
struct WgradShared {
    static constexpr int stage = (Tile::rows + Tile::columns) / (8 * Math::chunk) * WgradStage<Math>::panel_bytes;
    static constexpr int staging = Tile::rows * Tile::staging_pitch * 4;
    static constexpr int pipeline = Tile::stages * stage > staging ? Tile::stages * stage : staging;
    static constexpr size_t bytes = pipeline + sizeof(WgradTables<Math>);
};

// Grid: x tiles of columns, y tiles of filters, z splits.
template <class Math, class Tile>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_per_sm) wgrad_kernel(const WgradParams p) {
    PCONV_DYN_SMEM(shared);
    using Shared = WgradShared<Math, Tile>;
    constexpr int pixels = WgradStage<Math>::pixels, stages = Tile::stages;
    auto& tables = *reinterpret_cast<WgradTables<Math>*>(shared + Shared::pipeline);
    const int column0 = blockIdx.x * Tile::columns, row0 = blockIdx.y * Tile::rows;
    // Splits are whole steps, as even as they can be.
    const int all_pixels = p.n * p.p * p.q, all_steps = (all_pixels + pixels - 1) / pixels;
    const int begin = int(int64_t(all_steps) * blockIdx.z / p.splits),
              end = int(int64_t(all_steps) * (blockIdx.z + 1) / p.splits);
    WgradLoader<Math, Tile> loader(p, tables, threadIdx.x, row0, column0, min(all_pixels, end * pixels));
    typename WgradLoader<Math, Tile>::Gathered gathered;
    typename WgradProduct<Math, Tile>::Type product(shared, threadIdx.x);
    const uint32_t pipeline = smem_u32(shared);

    // Three things are under way at once: places of step t + 2, offsets and mask bytes of t + 1, copies of t.
#pragma unroll
    for (int ahead = 0; ahead < stages; ++ahead) {
        loader.locate((begin + ahead) * pixels, ahead & 1);
        __syncthreads();
        loader.prepare(ahead & 1, gathered);
        if (ahead < stages - 1) {
            if (begin + ahead < end) loader.load(pipeline + ahead * Shared::stage, (begin + ahead) * pixels, gathered);
            cp_async_commit();
        }
    }
    loader.locate((begin + stages) * pixels, stages & 1);
    int reading = 0, writing = stages - 1;
    for (int step = begin; step < end; ++step) {
        cp_async_wait<stages - 2>();
        __syncthreads();  // copies have landed; the refilled stage and the older places are free
        const int coming = step + stages - 1, slot = (step - begin + stages) & 1;
        if (coming < end) loader.load(pipeline + writing * Shared::stage, coming * pixels, gathered);
        cp_async_commit();
        loader.locate((coming + 2) * pixels, slot ^ 1);
        product.step(reading * Shared::stage);
        loader.prepare(slot, gathered);
        reading = reading == stages - 1 ? 0 : reading + 1;
        writing = writing == stages - 1 ? 0 : writing + 1;
    }
    cp_async_wait<0>();
    __syncthreads();  // the staging reuses the pipeline's memory

    float* const staging = reinterpret_cast<float*>(shared);
    product.stage_out(staging);
    __syncthreads();
    const int columns = p.window.r * p.window.s * p.channels;
    float* const out = p.partial + int64_t(blockIdx.z) * p.k * columns;
    for (int id = threadIdx.x; id < Tile::rows * Tile::columns / 4; id += Tile::threads) {
        const int row = id / (Tile::columns / 4), column = id % (Tile::columns / 4) * 4;
        if (row0 + row >= p.k || column0 + column >= columns) continue;  // columns % 4 == 0
        *reinterpret_cast<float4*>(out + int64_t(row0 + row) * columns + column0 + column) =
            *reinterpret_cast<const float4*>(staging + row * Tile::staging_pitch + column);
    }
}

template <class Math, class Tile>
Status launch_wgrad(const char* name, const WgradParams& p, cudaStream_t stream) {
    const int columns = p.window.r * p.window.s * p.channels;
    const dim3 grid((columns + Tile::columns - 1) / Tile::columns, (p.k + Tile::rows - 1) / Tile::rows, p.splits);
    return launch(name, wgrad_kernel<Math, Tile>, grid, dim3(Tile::threads), WgradShared<Math, Tile>::bytes, stream, p);
}

template <class Math, class Tile>
constexpr bool has_room(TileId id) {
    return int64_t(WgradShared<Math, Tile>::bytes) <= tile_shapes[static_cast<int>(id)].wgrad_shared_bytes;
}
static_assert(has_room<Bf16, Large>(TileId::large) && has_room<Tf32, LargeTf32Wgrad>(TileId::large), "as in tiles.h");
static_assert(has_room<Bf16, Lean>(TileId::lean) && has_room<Tf32, LeanTf32Wgrad>(TileId::lean), "as in tiles.h");
static_assert(has_room<Bf16, Small>(TileId::small) && has_room<Tf32, SmallRoomy>(TileId::small), "as in tiles.h");

}  // namespace

Status gemm_wgrad(MathId math, TileId tile, const WgradParams& call, cudaStream_t stream) {
    WgradParams p = call;
    p.by_p = divisor_of(p.p), p.by_q = divisor_of(p.q);
    if (is_wgmma(tile)) return sm90_wgrad(math, tile, p, stream);
    const char* const name = gemm_name(Pass::wgrad, tile);
    if (math == MathId::ieee) return launch_wgrad<Ieee, SmallRoomy>(name, p, stream);
    return by_math(math, name, [&](auto type) {
        using Math = typename decltype(type)::type;
        constexpr bool half = Math::chunk == 8;
        if (tile == TileId::large)
            return launch_wgrad<Math, std::conditional_t<half, Large, LargeTf32Wgrad>>(name, p, stream);
        if (tile == TileId::lean)
            return launch_wgrad<Math, std::conditional_t<half, Lean, LeanTf32Wgrad>>(name, p, stream);
        return launch_wgrad<Math, std::conditional_t<half, Small, SmallRoomy>>(name, p, stream);
    });
}

}  // namespace pconv::cuda
