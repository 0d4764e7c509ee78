// The forward product on wgmma: out [N, P, Q, K] from source [N, H, W, C] and filters [K, R, S, C].
#include "sm90.h"
#include "sm90_gemm.cuh"

namespace pconv::cuda {

Status sm90_fprop(MathId math, TileId tile, const GemmParams& p, cudaStream_t stream) {
    return launch_wgmma<Pass::fprop, Filters::k_major>(math, tile, p, stream);
}

}  // namespace pconv::cuda
