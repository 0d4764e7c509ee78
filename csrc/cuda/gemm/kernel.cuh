// The kernel itself: prologue, pipeline, epilogue.
#pragma once

#include "../launch.cuh"
#include "epilogue.cuh"
#include "loader.cuh"

namespace pconv::cuda {

template <class Tile>
constexpr size_t gemm_shared_bytes = Tile::pipeline_bytes + sizeof(Tables<Tile>);

template <Pass pass, class Tile>
dim3 gemm_grid(const GemmParams& p);

// What differs between the products around one pipeline: parameters, prologue, loader and grid.
template <Pass pass, class Math, class Tile, Filters filters>
struct Gather {
    using Params = GemmParams;
    using Load = Loader<Math, Tile, filters>;
    PCONV_DEV static void prepare(const Params& p, Tables<Tile>& tables, int tile, int parity_class) {
        prepare_tile<pass>(p, tables, tile, parity_class, Load::depth);
    }
    static dim3 grid(const Params& p) { return gemm_grid<pass, Tile>(p); }
};

// What a block's z in the grid says: its part of the K loop and its parity class. Most products have no splits, and
// their blocks are not to wait for divisions.
struct BlockPart {
    int split = 0, parity_class = blockIdx.z;
    unsigned splits;

    PCONV_DEV explicit BlockPart(const Tiling& tiling) : splits(tiling.splits) {
        if (splits > 1) {
            parity_class = blockIdx.z / splits;
            split = blockIdx.z - parity_class * splits;
        }
    }

    // Of all steps. 32 bits are enough: 67 million steps would read filters of 2^31 elements, and splits are 16 at
    // most.
    PCONV_DEV int begin(unsigned all) const { return splits > 1 ? all * split / splits : 0; }
    PCONV_DEV int end(unsigned all) const { return splits > 1 ? all * (split + 1) / splits : all; }
};

// Grid: x tiles of rows, y tiles of columns, z splits of the K loop (and, for dgrad, parity classes).
template <Pass pass, class Math, class Tile, Filters filters>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_per_sm)
    gemm_kernel(const typename Gather<pass, Math, Tile, filters>::Params p) {
    using Side = Gather<pass, Math, Tile, filters>;
    PCONV_DYN_SMEM(shared);
    Tables<Tile>& tables = *reinterpret_cast<Tables<Tile>*>(shared + Tile::pipeline_bytes);
    const BlockPart part(p.tiling);
    const int column0 = blockIdx.y * Tile::columns;
    Side::prepare(p, tables, blockIdx.x, part.parity_class);

    typename Side::Load loader(p, tables, threadIdx.x, column0);
    typename ProductOf<Math, Tile, filters>::Type product(shared, threadIdx.x);
    const int all = loader.steps();
    const int begin = part.begin(all), end = part.end(all);
    const uint32_t pipeline = smem_u32(shared);
    constexpr int stages = Tile::stages;
    loader.seek(begin);
#pragma unroll
    for (int ahead = 0; ahead < stages - 1; ++ahead) {
        if (begin + ahead < end) {
            loader.load(pipeline + ahead * Tile::stage_bytes);
            loader.advance();
        }
        cp_async_commit();  // empty groups too, so that "all but the newest" always means the same stage
    }
    int reading = 0, writing = stages - 1;
    for (int step = begin; step < end; ++step) {
        cp_async_wait<stages - 2>();
        // One barrier does for both: everyone's copies of this step have landed, and the stage that is refilled below,
        // read in the step before, is free.
        __syncthreads();
        if (step + stages - 1 < end) {
            loader.load(pipeline + writing * Tile::stage_bytes);
            loader.advance();
        }
        cp_async_commit();
        product.step(reading * Tile::stage_bytes);
        reading = reading == stages - 1 ? 0 : reading + 1;
        writing = writing == stages - 1 ? 0 : writing + 1;
    }
    cp_async_wait<0>();
    __syncthreads();  // the staging reuses the pipeline's memory

    float* const staging = reinterpret_cast<float*>(shared);
    product.stage_out(staging);
    __syncthreads();
    if (is_forward<pass> && p.output.ratio && blockIdx.y == 0 && part.split == 0)
        store_ratio(p.output, tables, threadIdx.x);
    if (p.output.partial)
        store_partial(p.output, tables, staging, column0, part.split, threadIdx.x);
    else if (p.output.nchw)
        store_planes<pass, Math>(p.output, tables, staging, column0, threadIdx.x);
    else
        store_rows<pass, Math>(p.output, tables, staging, column0, threadIdx.x);
}

template <Pass pass, class Tile>
dim3 gemm_grid(const GemmParams& p) {
    // The first parity class is the largest; smaller ones have rows that are outside.
    const int grid_h = pass == Pass::fprop ? p.output.h : (p.output.h + p.window.stride_h - 1) / p.window.stride_h;
    const int grid_w = pass == Pass::fprop ? p.output.w : (p.output.w + p.window.stride_w - 1) / p.window.stride_w;
    const int classes = pass == Pass::fprop ? 1 : p.window.stride_h * p.window.stride_w;
    const int64_t patches = p.tiling.patch_w > 0
                                ? int64_t(p.output.n) * ((grid_h + p.tiling.patch_h - 1) / p.tiling.patch_h) *
                                      ((grid_w + p.tiling.patch_w - 1) / p.tiling.patch_w)
                                : (int64_t(p.output.n) * grid_h * grid_w + Tile::rows - 1) / Tile::rows;
    return dim3(unsigned(patches), (p.output.columns + Tile::columns - 1) / Tile::columns, classes * p.tiling.splits);
}

template <Pass pass, class Math, class Tile, Filters filters>
Status launch_gemm(const char* name, const typename Gather<pass, Math, Tile, filters>::Params& p, cudaStream_t stream) {
    return launch(
        name, gemm_kernel<pass, Math, Tile, filters>, Gather<pass, Math, Tile, filters>::grid(p), dim3(Tile::threads),
        gemm_shared_bytes<Tile>, stream, p);
}

// The tile that the plan chose, of those that a pass has.
template <Pass pass, class Math, Filters filters>
Status launch_tile(TileId tile, const typename Gather<pass, Math, Small, filters>::Params& p, cudaStream_t stream) {
    const char* const name = gemm_name(pass, tile);
    switch (tile) {
        case TileId::large: return launch_gemm<pass, Math, Large, filters>(name, p, stream);
        case TileId::lean: return launch_gemm<pass, Math, Lean, filters>(name, p, stream);
        case TileId::wide:
            if constexpr (Math::chunk == 8) return launch_gemm<pass, Math, Wide, filters>(name, p, stream);
            break;
        case TileId::small: return launch_gemm<pass, Math, Small, filters>(name, p, stream);
        case TileId::thin:
            if constexpr (pass == Pass::fprop) return launch_gemm<pass, Math, Thin, filters>(name, p, stream);
            break;
        case TileId::wgmma_128x256:
        case TileId::wgmma_128x128:
        case TileId::wgmma_128x64:
        case TileId::wgmma_192x256:
        case TileId::wgmma_256x128:
        case TileId::wgmma_256x64:
        case TileId::wgmma_64x256: break;
    }
    return {cudaErrorInvalidValue, name};
}

// Forward passes, with filters as [columns][R * S][channels].
template <Pass pass, class Params>
Status launch_forward(MathId math, TileId tile, const Params& p, cudaStream_t stream) {
    constexpr Filters filters = Filters::k_major;
    if (math == MathId::ieee) return launch_gemm<pass, Ieee, SmallRoomy, filters>(gemm_name(pass, tile), p, stream);
    return by_math(math, gemm_name(pass, tile), [&](auto type) {
        return launch_tile<pass, typename decltype(type)::type, filters>(tile, p, stream);
    });
}

}  // namespace pconv::cuda
