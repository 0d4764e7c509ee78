// The gradient by the weight, in the domain of Winograd's products (winograd_2x2.h): for each of the 16 points a
// product of the transformed input's and the transformed gradient's tiles.
#include "winograd_2x2.h"

#include "numeric.h"
#include "parallel.h"

#include <vector>

namespace pconv::cpu {
namespace {

// G^T du G of a vector of filters: from both sides a row (a, b, c, d) becomes (a + (b + c) / 2, (b - c) / 2, (b + c) /
// 2 + d).
PCONV_CLONES void fold_2x2(const float* du, int64_t plane, float* dg) {
    for (int64_t l = 0; l < kMaxLanes; ++l) {
        double half[3][4];
        for (int j = 0; j < 4; ++j) {
            const double second = du[(4 + j) * plane + l], third = du[(8 + j) * plane + l];
            half[0][j] = du[j * plane + l] + 0.5 * (second + third);
            half[1][j] = 0.5 * (second - third);
            half[2][j] = 0.5 * (second + third) + du[(12 + j) * plane + l];
        }
        for (int r = 0; r < 3; ++r) {
            const double sum = 0.5 * (half[r][1] + half[r][2]);
            dg[3 * r * kMaxLanes + l] = float(half[r][0] + sum);
            dg[(3 * r + 1) * kMaxLanes + l] = float(0.5 * (half[r][1] - half[r][2]));
            dg[(3 * r + 2) * kMaxLanes + l] = float(sum + half[r][3]);
        }
    }
}

// Tiles at a time: enough for each sum to pay for the reading and writing of du, few enough for the far cache.
constexpr int64_t kTogether = 32;

#define PCONV_TILE "winograd_2x2_gradient_tile.h"
#include "vector_tiles.h"

struct Variant {
    void (*sources)(const Problem&, int64_t, int64_t, const float*, int64_t, int64_t, float*) = nullptr;
    void (*gradient)(const Problem&, const Geometry&, const float*, int64_t, int64_t, int64_t, int64_t, float*) =
        nullptr;
    void (*accumulate)(
        const Run&, int64_t, int64_t, const float*, const float*, int64_t, int64_t, int64_t, bool, float*,
        int64_t) = nullptr;
    int64_t block = kMaxLanes;
};

Variant variant() {
#ifdef PCONV_HAS_TILES
    switch (instruction_set()) {
        case InstructionSet::kAvx512:
            return {avx512::transform_sources, avx512::transform_gradient, avx512::accumulate_block, avx512::kBlock};
        case InstructionSet::kAvx2:
            return {avx2::transform_sources, avx2::transform_gradient, avx2::accumulate_block, avx2::kBlock};
        case InstructionSet::kBaseline: break;
    }
#endif
    return {};
}

// Floats from one tile to the next: an odd number of cache lines, so that they do not fall on the same few sets.
int64_t step_of(int64_t channels) { return (round_up(channels, 16) / 16 | 1) * 16; }

}  // namespace

void winograd_2x2_weight_gradient(
    const Geometry& g, const WinogradSources& sources, const float* scaled, float* dw, const int64_t dw_step[4]) {
    const Variant variants = variant();
    const Problem problem{input_segments(g, sources, false), {}, g.n, (g.p + 1) / 2, (g.q + 1) / 2};
    const Segments& in = problem.in;
    const int64_t tiles = problem.tiles(), together = std::min(kTogether, tiles), padded_k = round_up(g.k, kMaxLanes);
    const int64_t v_step = step_of(in.channels), m_step = step_of(g.k);
    const int64_t v_plane = together * v_step, m_plane = together * m_step, du_plane = in.channels * padded_k;
    const Floats v(kPoints * v_plane), m(kPoints * m_plane), du(kPoints * du_plane);
    int64_t widest = 0;
    for (const Segment& each : in) widest = std::max(widest, each.part.channels);
    const std::vector<float> zeros(round_up(widest, kMaxLanes));
    const int64_t blocks = (g.k + variants.block - 1) / variants.block;
    for (int64_t first = 0; first < tiles; first += together) {
        const int64_t count = std::min(together, tiles - first);
        parallel_for(count, 4, [&](int64_t begin, int64_t end) {
            const int64_t here = end - begin;
            variants.sources(problem, first + begin, here, zeros.data(), v_step, v_plane, v.get() + begin * v_step);
            variants.gradient(problem, g, scaled, first + begin, here, m_step, m_plane, m.get() + begin * m_step);
        });
        parallel_for(kPoints * blocks, 1, [&](int64_t begin, int64_t end) {
            for (int64_t job = begin; job < end; ++job) {
                const int64_t point = job / blocks, k = job % blocks * variants.block;
                variants.accumulate(
                    run_of(in, int(point)), k, g.k, v.get() + point * v_plane, m.get() + point * m_plane, count, v_step,
                    m_step, first > 0, du.get() + point * du_plane, padded_k);
            }
        });
    }
    for (const Segment& each : in) {
        // What was left out is 0; of a tap that there is not, it is not read.
        for (int point = 0; each.doubled && point < kPoints; ++point)
            if (!each.needs(point))
                std::fill_n(
                    du.get() + point * du_plane + each.part.first * padded_k, each.part.channels * padded_k, 0.0f);
        fold_filters(each.part, fold_2x2, du.get(), du_plane, g.k, padded_k, dw, dw_step);
    }
}

}  // namespace pconv::cpu
