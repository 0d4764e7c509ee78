// The input gradient's instances: out [N, H, W, C] from source [N, P, Q, K] (ratio * gradient) and the filters.
// Half types read the filters as they lie, [K, R, S, C], transposed by ldmatrix. fp32, for which ldmatrix cannot
// transpose, and filters so few that a K step takes several taps, read a transposed copy [C, R, S, K].
#include "../sm90/sm90.h"
#include "gemm.h"
#include "kernel.cuh"

namespace pconv::cuda {

Status gemm_dgrad(MathId math, TileId tile, bool transposed, const GemmParams& p, cudaStream_t stream) {
    if (is_wgmma(tile)) return sm90_dgrad(math, tile, p, stream);
    const char* const name = gemm_name(Pass::dgrad, tile);
    if (math == MathId::ieee) return launch_gemm<Pass::dgrad, Ieee, SmallRoomy, Filters::k_major>(name, p, stream);
    return by_math(math, name, [&](auto type) {
        using Math = typename decltype(type)::type;
        if constexpr (Math::chunk == 8) {
            if (!transposed) return launch_tile<Pass::dgrad, Math, Filters::mn_major>(tile, p, stream);
            return launch_gemm<Pass::dgrad, Math, Small, Filters::k_major>(name, p, stream);
        } else {
            return launch_tile<Pass::dgrad, Math, Filters::k_major>(tile, p, stream);
        }
    });
}

}  // namespace pconv::cuda
