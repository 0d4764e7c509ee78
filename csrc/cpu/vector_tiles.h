// PCONV_TILE, a header of loops over vectors, once for each instruction set: namespaces avx512 and avx2. It is included
// by each loop that comes in both, hence no guard; instruction_set.h comes first.
#ifdef PCONV_HAS_TILES
namespace avx512 {
#define PCONV_TARGET __attribute__((target("avx512f")))
#define PCONV_LANES 16
#define PCONV_VECTORS 4
#include PCONV_TILE
}  // namespace avx512

namespace avx2 {
#define PCONV_TARGET __attribute__((target("avx2,fma")))
#define PCONV_LANES 8
#define PCONV_VECTORS 2
#include PCONV_TILE
}  // namespace avx2
#endif
