// The launchers of the sm_90a kernels (sm90_*.cu): half types, TileId::wgmma_*. Elsewhere the kernels' bodies are
// empty; the plan chooses them for such a device alone.
#pragma once

#include "../gemm/gemm.h"
#include "../upcat/upcat.h"

namespace pconv::cuda {

Status sm90_fprop(MathId math, TileId tile, const GemmParams& p, cudaStream_t stream);
Status sm90_upcat(MathId math, TileId tile, const UpcatParams& p, cudaStream_t stream);
Status sm90_dgrad(MathId math, TileId tile, const GemmParams& p, cudaStream_t stream);  // filters [K, R, S, C]
Status sm90_wgrad(MathId math, TileId tile, const WgradParams& p, cudaStream_t stream);

}  // namespace pconv::cuda
