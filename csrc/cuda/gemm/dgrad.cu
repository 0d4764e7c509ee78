// The input gradient's instances: out [N, H, W, C] from source [N, P, Q, K] (ratio * gradient) and the filters.
// Half types read the filters as they lie, [K, R, S, C], transposed by ldmatrix. fp32, for which ldmatrix cannot
// transpose, and filters so few that a K step takes several taps, read a transposed copy [C, R, S, K].
#include "../sm90/sm90.h"
#include "gemm.h"
#include "kernel.cuh"

namespace pconv::cuda {
namespace {

template <class Math>
Status as_they_lie(TileId tile, const GemmParams& p, cudaStream_t stream) {
    constexpr Filters order = Filters::mn_major;
    switch (tile) {
        case TileId::large: return launch_gemm<Pass::dgrad, Math, Large, order>("dgrad 128x128", p, stream);
        case TileId::lean: return launch_gemm<Pass::dgrad, Math, Lean, order>("dgrad 128x128, 2 stages", p, stream);
        case TileId::wide: return launch_gemm<Pass::dgrad, Math, Wide, order>("dgrad 256x64", p, stream);
        case TileId::small: return launch_gemm<Pass::dgrad, Math, Small, order>("dgrad 64x64", p, stream);
        case TileId::thin:
        case TileId::wgmma_128x256:
        case TileId::wgmma_128x128: break;
    }
    return {cudaErrorInvalidValue, "dgrad: no such tile"};
}

template <class Math>
Status transposed_small(const GemmParams& p, cudaStream_t stream) {
    return launch_gemm<Pass::dgrad, Math, Small, Filters::k_major>("dgrad 64x64, transposed filters", p, stream);
}

}  // namespace

Status gemm_dgrad(MathId math, TileId tile, bool transposed, const GemmParams& p, cudaStream_t stream) {
    if (is_wgmma(tile)) return sm90_dgrad(math, tile, p, stream);
    switch (math) {
        case MathId::bf16: return transposed ? transposed_small<Bf16>(p, stream) : as_they_lie<Bf16>(tile, p, stream);
        case MathId::f16: return transposed ? transposed_small<Half>(p, stream) : as_they_lie<Half>(tile, p, stream);
        case MathId::tf32:
            if (tile == TileId::large)
                return launch_gemm<Pass::dgrad, Tf32, Large, Filters::k_major>("dgrad 128x128 tf32", p, stream);
            if (tile == TileId::lean)
                return launch_gemm<Pass::dgrad, Tf32, Lean, Filters::k_major>(
                    "dgrad 128x128 tf32, 2 stages", p, stream);
            return transposed_small<Tf32>(p, stream);
        case MathId::ieee: break;
    }
    return launch_gemm<Pass::dgrad, Ieee, SmallRoomy, Filters::k_major>("dgrad 64x64 fp32", p, stream);
}

}  // namespace pconv::cuda
