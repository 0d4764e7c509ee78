// The tiles of tiles.h as the kernels' compile-time constants: rows, columns, warp rows, warp columns, stages, blocks
// that should fit on a multiprocessor (it bounds the registers: left alone, ptxas prefers a spill to 80 registers).
#pragma once

#include "tile.h"
#include "tiles.h"

namespace pconv::cuda {

using Large = Tile<128, 128, 64, 64, 3, 2>;
using Wide = Tile<256, 64, 64, 64, 2, 2>;
using Small = Tile<64, 64, 32, 32, 3, 4>;
using Thin = Tile<128, 8, 32, 8, 4, 4>;
using Lean = Tile<128, 128, 64, 64, 2, 2>;
// The weight gradient of fp32 fetches its fragments word by word, and needs more registers than fit four times.
using LargeTf32Wgrad = Tile<128, 128, 64, 32, 3, 1>;
using LeanTf32Wgrad = Tile<128, 128, 64, 32, 2, 1>;
using SmallRoomy = Tile<64, 64, 32, 32, 3, 3>;

template <class Tile>
constexpr bool matches(TileId id) {
    return tile_shapes[static_cast<int>(id)].rows == Tile::rows &&
           tile_shapes[static_cast<int>(id)].columns == Tile::columns;
}
static_assert(matches<Large>(TileId::large) && matches<Wide>(TileId::wide), "tiles.h and the kernels agree");
static_assert(matches<Small>(TileId::small) && matches<Thin>(TileId::thin), "tiles.h and the kernels agree");
static_assert(matches<Lean>(TileId::lean), "tiles.h and the kernels agree");

}  // namespace pconv::cuda
