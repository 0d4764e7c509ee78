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

}  // namespace

Status gemm_fprop(MathId math, TileId tile, const GemmParams& p, cudaStream_t stream) {
    return is_wgmma(tile) ? sm90_fprop(math, tile, p, stream) : launch_forward<Pass::fprop>(math, tile, p, stream);
}

}  // namespace pconv::cuda
