// The input gradient on wgmma: out [N, H, W, C] from source [N, P, Q, K] (ratio * gradient) and the filters as they
// lie, [K, R, S, C].
#include "sm90.h"
#include "sm90_gemm.cuh"

namespace pconv::cuda {

Status sm90_dgrad(MathId math, TileId tile, const GemmParams& p, cudaStream_t stream) {
    return launch_wgmma<Pass::dgrad, Filters::mn_major>(math, tile, p, stream);
}

}  // namespace pconv::cuda
