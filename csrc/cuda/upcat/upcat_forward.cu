// The instances of the decoder stage's forward: four phases and the skip in one launch (upcat_gather.cuh).
#include "../sm90/sm90.h"
#include "upcat_gather.cuh"

namespace pconv::cuda {
namespace {

template <class Math, class Tile>
Status launch_upcat(const char* name, const UpcatParams& p, cudaStream_t stream) {
    return launch_gemm<Pass::upcat, Math, Tile, Filters::k_major>(name, p, stream);
}

template <class Math>
Status by_tile(TileId tile, const UpcatParams& p, cudaStream_t stream) {
    switch (tile) {
        case TileId::large: return launch_upcat<Math, Large>("upcat 128x128", p, stream);
        case TileId::lean: return launch_upcat<Math, Lean>("upcat 128x128, 2 stages", p, stream);
        case TileId::wide:
            if constexpr (Math::chunk == 8) return launch_upcat<Math, Wide>("upcat 256x64", p, stream);
            break;
        case TileId::small: return launch_upcat<Math, Small>("upcat 64x64", p, stream);
        case TileId::thin:
        case TileId::wgmma_128x256:
        case TileId::wgmma_128x128: break;
    }
    return {cudaErrorInvalidValue, "upcat: no such tile"};
}

}  // namespace

Status gemm_upcat(MathId math, TileId tile, const UpcatParams& p, cudaStream_t stream) {
    if (is_wgmma(tile)) return sm90_upcat(math, tile, p, stream);
    switch (math) {
        case MathId::bf16: return by_tile<Bf16>(tile, p, stream);
        case MathId::f16: return by_tile<Half>(tile, p, stream);
        case MathId::tf32: return by_tile<Tf32>(tile, p, stream);
        case MathId::ieee: break;
    }
    return launch_upcat<Ieee, SmallRoomy>("upcat 64x64 fp32", p, stream);
}

}  // namespace pconv::cuda
