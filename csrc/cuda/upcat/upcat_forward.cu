// The instances of the decoder stage's forward: four phases and the skip in one launch (upcat_gather.cuh).
#include "../sm90/sm90.h"
#include "upcat_gather.cuh"

namespace pconv::cuda {

Status gemm_upcat(MathId math, TileId tile, const UpcatParams& p, cudaStream_t stream) {
    return is_wgmma(tile) ? sm90_upcat(math, tile, p, stream) : launch_forward<Pass::upcat>(math, tile, p, stream);
}

}  // namespace pconv::cuda
