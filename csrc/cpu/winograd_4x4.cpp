// A 3x3 convolution (stride 1, padding 1) in a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin and Gray,
// arXiv 1509.09308). x [N, H, W, C] and y [N, H, W, K] are channels_last fp32. For the frozen VGG16 of the loss, which
// takes more time than the network that is trained.
//
//   Y = A^T [ sum over c of (G g G^T) * (B^T d B) ] A      d 6x6 input pixels, Y 4x4 outputs, * by element
//
// The matrices come from the points 0, +-a, +-b and infinity. With the usual +-1 and +-2 the rms error is 2.8 to 4.6
// times a direct convolution's; with a = 2/3 and b = 3/2 it is 1.1 to 1.7 times (with the channels' sum in
// parts: winograd_4x4_tile.h), and a b = 1 saves a product besides.
#include "instruction_set.h"
#include "numeric.h"
#include "parallel.h"
#include "winograd.h"

namespace pconv::cpu {
namespace {

constexpr double a = 2.0 / 3, b = 3.0 / 2;
[[maybe_unused]] constexpr float kA = a, kB = b, kA2 = a * a, kB2 = b * b, kA3 = a * a * a, kB3 = b * b * b,
                                 kA2B2 = a * a + b * b;
constexpr int kPoints = 36;  // of a tile

// Tiles that are transformed, multiplied and transformed back before the next ones: a few register tiles, so that each
// filter that comes from the far cache serves them all. More tiles leave the near cache and were slower.
constexpr int64_t kTogether = 4 * kTileRows;

struct Problem {
    int64_t n, c, k, h, w;
    int64_t tile_rows, tile_columns;
    const float *x, *gate, *bias;
    bool relu;
    float* y;
};

// Where a tile lies: its picture and its first output pixel.
struct Place {
    int64_t n, y, x;
    Place(const Problem& p, int64_t tile)
        : n(tile / (p.tile_rows * p.tile_columns)),
          y(tile / p.tile_columns % p.tile_rows * 4),
          x(tile % p.tile_columns * 4) {}
};

#define PCONV_TILE "winograd_4x4_tile.h"
#include "vector_tiles.h"

struct Variant {
    void (*compute)(const Problem&, int64_t, int64_t, const float*, float*, float*) = nullptr;
    FilterLayout filters;
};

Variant variant() {
#ifdef PCONV_HAS_TILES
    switch (instruction_set()) {
        case InstructionSet::kAvx512: return {avx512::compute, {avx512::kLanes, avx512::kBlock}};
        case InstructionSet::kAvx2: return {avx2::compute, {avx2::kLanes, avx2::kBlock}};
        case InstructionSet::kBaseline: break;
    }
#endif
    return {};
}

// G g G^T of a vector of filters. In double: it is little work, and the rounding of the result is then the only one.
PCONV_CLONES void transform_4x4(const float* g, float* u) {
    constexpr double na = 2 * a * a * (a * a - b * b), nb = 2 * b * b * (b * b - a * a);
    constexpr double rows[6][3] = {{1 / (a * a * b * b), 0, 0},   {1 / na, a / na, a * a / na},
                                   {1 / na, -a / na, a * a / na}, {1 / nb, b / nb, b * b / nb},
                                   {1 / nb, -b / nb, b * b / nb}, {0, 0, 1}};
    constexpr int64_t kStep = 8;
    for (int64_t l = 0; l < kMaxLanes; l += kStep) {
        double half[6][3][kStep];
        for (int i = 0; i < 6; ++i)
            for (int s = 0; s < 3; ++s)
                for (int e = 0; e < kStep; ++e) {
                    const float* from = g + s * kMaxLanes + l + e;
                    half[i][s][e] =
                        rows[i][0] * from[0] + rows[i][1] * from[3 * kMaxLanes] + rows[i][2] * from[6 * kMaxLanes];
                }
        for (int i = 0; i < 6; ++i)
            for (int j = 0; j < 6; ++j)
                for (int e = 0; e < kStep; ++e)
                    u[(6 * i + j) * kMaxLanes + l + e] =
                        float(half[i][0][e] * rows[j][0] + half[i][1][e] * rows[j][1] + half[i][2][e] * rows[j][2]);
    }
}

}  // namespace

bool has_winograd() { return variant().compute != nullptr; }

void winograd_4x4(
    const Conv3x3& conv, bool relu, const float* x, const float* gate, const float* weight,
    const int64_t weight_step[4], const float* bias, float* y) {
    const Variant tiles = variant();
    const int64_t c = round_up(conv.c, tiles.filters.lanes), k = tiles.filters.padded(conv.k);
    const Floats filters(kPoints * conv.c * k);
    WeightPart all{0, conv.adjoint ? conv.k : conv.c};
    if (conv.adjoint) std::reverse(all.rows, all.rows + 3), std::reverse(all.columns, all.columns + 3);
    transform_filters(
        {6, transform_4x4}, &all, 1, conv.adjoint, conv.c, 0, conv.k, weight, weight_step, tiles.filters,
        filters.get());
    Problem p{conv.n, conv.c, conv.k, conv.h, conv.w, (conv.h + 3) / 4, (conv.w + 3) / 4, x, gate, bias, relu, y};
    const int64_t count = p.n * p.tile_rows * p.tile_columns;
    parallel_for((count + kTogether - 1) / kTogether, 1, [&](int64_t begin, int64_t end) {
        const Floats v(kPoints * kTogether * c), m(kPoints * kTogether * k);
        for (int64_t i = begin; i < end; ++i)
            tiles.compute(
                p, i * kTogether, std::min(kTogether, count - i * kTogether), filters.get(), v.get(), m.get());
    });
}

}  // namespace pconv::cpu
