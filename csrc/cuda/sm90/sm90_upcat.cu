// The decoder stage's forward on wgmma: the gather of upcat_gather.cuh in the pipeline of sm90_gemm.cuh.
#include "../upcat/upcat_gather.cuh"
#include "sm90.h"
#include "sm90_gemm.cuh"

namespace pconv::cuda {

// Two tensors of filters: low's phases and the weight; direct: the weight twice.
template <class Math, class Tile, Filters order>
cudaError_t map_filters(const UpcatParams& p, TensorMap* filters) {
    constexpr bool is_bf16 = std::is_same<Math, Bf16>::value;
    const UpcatBlock &low = p.blocks[0], &skip = p.blocks[1];
    const cudaError_t mapped = make_tensor_map_3d(
        filters, low.filters, is_bf16, low.filter_channels, p.direct ? 9 : 4,
        p.direct ? p.output.columns : 4 * p.output.columns, Tile::columns);
    if (mapped != cudaSuccess) return mapped;
    return make_tensor_map_3d(
        filters + 1, skip.filters, is_bf16, skip.filter_channels, skip_taps, p.output.columns, Tile::columns);
}

namespace {

template <class Math>
Status by_tile(TileId tile, const UpcatParams& p, cudaStream_t stream) {
    constexpr Filters order = Filters::k_major;
    if (tile == TileId::wgmma_128x256)
        return launch_wgmma_gemm<Pass::upcat, Math, Wgmma256, order>("upcat wgmma 128x256", p, stream);
    return launch_wgmma_gemm<Pass::upcat, Math, Wgmma128, order>("upcat wgmma 128x128", p, stream);
}

}  // namespace

Status sm90_upcat(MathId math, TileId tile, const UpcatParams& p, cudaStream_t stream) {
    if (math == MathId::bf16) return by_tile<Bf16>(tile, p, stream);
    if (math == MathId::f16) return by_tile<Half>(tile, p, stream);
    return {cudaErrorInvalidValue, "upcat: wgmma is for half types"};
}

}  // namespace pconv::cuda
