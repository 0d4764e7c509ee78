// A 3x3 convolution (stride 1, padding 1) in a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin and Gray,
// arXiv 1509.09308). x [N, H, W, C] and y [N, H, W, K] are channels_last fp32. For the frozen VGG16 of the loss, which
// takes more time than the network that is trained.
//
//   Y = A^T [ sum over c of (G g G^T) * (B^T d B) ] A      d 6x6 input pixels, Y 4x4 outputs, * by element
//
// The matrices come from the points 0, +-a, +-b and infinity. With the usual +-1 and +-2 the rms error is 2.8 to 4.6
// times a direct convolution's; with a = 2/3 and b = 3/2 it is 1.1 to 1.7 times (with the channels' sum in
// parts: winograd_tile.h), and a b = 1 saves a product besides.
#include "instruction_set.h"
#include "kernels.h"
#include "parallel.h"

#include <algorithm>
#include <vector>

namespace pconv::cpu {
namespace {

constexpr double a = 2.0 / 3, b = 3.0 / 2;
constexpr float kA = a, kB = b, kA2 = a * a, kB2 = b * b, kA3 = a * a * a, kB3 = b * b * b, kA2B2 = a * a + b * b;
constexpr int64_t kTiles = 6;  // of a register tile

// Tiles that are transformed, multiplied and transformed back before the next ones: a few register tiles, so that each
// filter that comes from the far cache serves them all. More tiles leave the near cache and were slower.
constexpr int64_t kTogether = 4 * kTiles;

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

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

#define PCONV_TILE "winograd_tile.h"
#include "vector_tiles.h"

struct Variant {
    void (*compute)(const Problem&, int64_t, int64_t, const float*, float*, float*) = nullptr;
    int64_t lanes = 16, block = 16;
};

Variant variant() {
#ifdef PCONV_HAS_TILES
    switch (instruction_set()) {
        case InstructionSet::kAvx512: return {avx512::compute, avx512::kLanes, avx512::kBlock};
        case InstructionSet::kAvx2: return {avx2::compute, avx2::kLanes, avx2::kBlock};
        case InstructionSet::kBaseline: break;
    }
#endif
    return {};
}

struct alignas(64) Line {
    float values[16];
};

float* floats(std::vector<Line>& lines) { return lines.data()->values; }
std::vector<Line> buffer(int64_t count) { return std::vector<Line>(round_up(count, 16) / 16); }

// G g G^T of one filter, in double: it is little work, and the rounding of the result is then the only one.
void transform_filter(const double g[9], double out[36]) {
    const double na = 2 * a * a * (a * a - b * b), nb = 2 * b * b * (b * b - a * a);
    const double rows[6][3] = {{1 / (a * a * b * b), 0, 0},   {1 / na, a / na, a * a / na},
                               {1 / na, -a / na, a * a / na}, {1 / nb, b / nb, b * b / nb},
                               {1 / nb, -b / nb, b * b / nb}, {0, 0, 1}};
    double half[6][3];
    for (int i = 0; i < 6; ++i)
        for (int s = 0; s < 3; ++s) half[i][s] = rows[i][0] * g[s] + rows[i][1] * g[3 + s] + rows[i][2] * g[6 + s];
    for (int i = 0; i < 6; ++i)
        for (int j = 0; j < 6; ++j)
            out[6 * i + j] = half[i][0] * rows[j][0] + half[i][1] * rows[j][1] + half[i][2] * rows[j][2];
}

// U [36, padded K / block, C, block], the last block narrower: what a register tile reads lies in one stretch.
// `adjoint`: of the convolution's transpose, with C and K changed over and the filters turned about.
std::vector<Line> transform_filters(
    const Conv3x3& conv, const float* weight, const int64_t step[4], const Variant& tiles) {
    const int64_t padded = round_up(conv.k, tiles.lanes), plane = conv.c * padded;
    std::vector<Line> result = buffer(36 * plane);
    float* out = floats(result);
    parallel_for(conv.k, grain_for(conv.c * 36 * 32), [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k) {
            const int64_t first = k / tiles.block * tiles.block, width = std::min(tiles.block, padded - first);
            for (int64_t c = 0; c < conv.c; ++c) {
                double g[9], u[36];
                for (int tap = 0; tap < 9; ++tap) {
                    const int from = conv.adjoint ? 8 - tap : tap;
                    const int64_t outer = conv.adjoint ? c : k, inner = conv.adjoint ? k : c;
                    g[tap] = weight[outer * step[0] + inner * step[1] + from / 3 * step[2] + from % 3 * step[3]];
                }
                transform_filter(g, u);
                float* to = out + first * conv.c + c * width + k - first;
                for (int f = 0; f < 36; ++f) to[f * plane] = float(u[f]);
            }
        }
    });
    return result;
}

}  // namespace

bool has_winograd() { return variant().compute != nullptr; }

void winograd(
    const Conv3x3& conv, const float* x, const float* gate, const float* weight, const int64_t weight_step[4],
    const float* bias, float* y) {
    const Variant tiles = variant();
    const std::vector<Line> filters = transform_filters(conv, weight, weight_step, tiles);
    Problem p{conv.n, conv.c, conv.k, conv.h, conv.w, (conv.h + 3) / 4, (conv.w + 3) / 4, x, gate, bias, conv.relu, y};
    const int64_t c = round_up(conv.c, tiles.lanes), k = round_up(conv.k, tiles.lanes);
    const int64_t count = p.n * p.tile_rows * p.tile_columns;
    parallel_for((count + kTogether - 1) / kTogether, 1, [&](int64_t begin, int64_t end) {
        std::vector<Line> v = buffer(36 * kTogether * c), m = buffer(36 * kTogether * k);
        for (int64_t i = begin; i < end; ++i)
            tiles.compute(
                p, i * kTogether, std::min(kTogether, count - i * kTogether), filters.data()->values, floats(v),
                floats(m));
    });
}

}  // namespace pconv::cpu
