// The forward product on wgmma: out [N, P, Q, K] from source [N, H, W, C] and filters [K, R, S, C].
#include "sm90.h"
#include "sm90_gemm.cuh"

namespace pconv::cuda {
namespace {

template <class Math>
Status by_tile(TileId tile, const GemmParams& p, cudaStream_t stream) {
    constexpr Filters order = Filters::k_major;
    if (tile == TileId::wgmma_128x256)
        return launch_wgmma_gemm<Pass::fprop, Math, Wgmma256, order>("fprop wgmma 128x256", p, stream);
    return launch_wgmma_gemm<Pass::fprop, Math, Wgmma128, order>("fprop wgmma 128x128", p, stream);
}

}  // namespace

Status sm90_fprop(MathId math, TileId tile, const GemmParams& p, cudaStream_t stream) {
    if (math == MathId::bf16) return by_tile<Bf16>(tile, p, stream);
    if (math == MathId::f16) return by_tile<Half>(tile, p, stream);
    return {cudaErrorInvalidValue, "fprop: wgmma is for half types"};
}

}  // namespace pconv::cuda
