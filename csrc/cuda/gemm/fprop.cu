// The forward product's instances: out [N, P, Q, K] from source [N, H, W, C] and filters [K, R, S, C].
#include "../sm90/sm90.h"
#include "gemm.h"
#include "kernel.cuh"

namespace pconv::cuda {
namespace {

template <class Tile>
constexpr bool has_room(TileId id) {
    return int64_t(gemm_shared_bytes<Tile>) <= tile_shapes[static_cast<int>(id)].shared_bytes;
}
static_assert(has_room<Large>(TileId::large) && has_room<Wide>(TileId::wide), "the plan relies on tiles.h");
static_assert(has_room<Lean>(TileId::lean), "the plan relies on tiles.h");
static_assert(has_room<Small>(TileId::small) && has_room<Thin>(TileId::thin), "the plan relies on tiles.h");

template <class Math>
Status by_tile(TileId tile, const GemmParams& p, cudaStream_t stream) {
    constexpr Filters order = Filters::k_major;
    switch (tile) {
        case TileId::large: return launch_gemm<Pass::fprop, Math, Large, order>("fprop 128x128", p, stream);
        case TileId::lean: return launch_gemm<Pass::fprop, Math, Lean, order>("fprop 128x128, 2 stages", p, stream);
        case TileId::thin: return launch_gemm<Pass::fprop, Math, Thin, order>("fprop 128x8", p, stream);
        case TileId::wide:
            if constexpr (Math::chunk == 8)
                return launch_gemm<Pass::fprop, Math, Wide, order>("fprop 256x64", p, stream);
            break;
        case TileId::small: return launch_gemm<Pass::fprop, Math, Small, order>("fprop 64x64", p, stream);
        case TileId::wgmma_128x256:
        case TileId::wgmma_128x128: break;
    }
    return {cudaErrorInvalidValue, "fprop: no such tile"};
}

}  // namespace

Status gemm_fprop(MathId math, TileId tile, const GemmParams& p, cudaStream_t stream) {
    if (is_wgmma(tile)) return sm90_fprop(math, tile, p, stream);
    switch (math) {
        case MathId::bf16: return by_tile<Bf16>(tile, p, stream);
        case MathId::f16: return by_tile<Half>(tile, p, stream);
        case MathId::tf32: return by_tile<Tf32>(tile, p, stream);
        case MathId::ieee: break;
    }
    return launch_gemm<Pass::fprop, Ieee, SmallRoomy, Filters::k_major>("fprop 64x64 fp32", p, stream);
}

}  // namespace pconv::cuda
