// Partial convolutions by Winograd's F(2x2, 3x3) (winograd_2x2.h) and their gradients by the input. A decoder stage's
// doubled and joined tensor is never made: patches are gathered from both sources, holes read as zeros, and ratio, bias
// and activation are applied to a tile before it is written.
#include "winograd_2x2.h"

#include "numeric.h"
#include "parallel.h"

#include <vector>

namespace pconv::cpu {
namespace {

// G g G^T of a vector of filters. In double: it is little work, and the rounding of the result is then the only one.
PCONV_CLONES void transform_2x2(const float* g, float* u) {
    for (int64_t l = 0; l < kMaxLanes; ++l) {
        double half[4][3];
        for (int s = 0; s < 3; ++s) {
            const double top = g[s * kMaxLanes + l], middle = g[(3 + s) * kMaxLanes + l],
                         low = g[(6 + s) * kMaxLanes + l];
            half[0][s] = top, half[3][s] = low;
            half[1][s] = 0.5 * (top + middle + low), half[2][s] = 0.5 * (top - middle + low);
        }
        for (int i = 0; i < 4; ++i) {
            const double left = half[i][0], middle = half[i][1], right = half[i][2];
            u[4 * i * kMaxLanes + l] = float(left), u[(4 * i + 3) * kMaxLanes + l] = float(right);
            u[(4 * i + 1) * kMaxLanes + l] = float(0.5 * (left + middle + right));
            u[(4 * i + 2) * kMaxLanes + l] = float(0.5 * (left - middle + right));
        }
    }
}

// Tiles that are transformed, multiplied and transformed back before the next ones: a few register tiles, so that each
// filter that comes from a far cache serves them all, and as many as a near cache has room for.
int64_t tiles_together(int64_t c, int64_t k) {
    constexpr int64_t kRoom = 768 << 10;
    return std::clamp<int64_t>(kRoom / (kPoints * (c + k) * 4) / kTileRows, 2, 16) * kTileRows;
}

// Filters that are transformed before they are used: as many as stay in a far cache, for their transforms are three
// times the weight's size; whole blocks of them. The input is transformed for each slice again, a few percent of its
// products.
int64_t filters_together(const Problem& problem) {
    constexpr int64_t kRoom = 4 << 20, kStep = 64;
    const int64_t room = kRoom / (kPoints * problem.in.channels * 4) / kStep;
    return std::min(problem.out.channels, std::max<int64_t>(room, 1) * kStep);
}

#define PCONV_TILE "winograd_2x2_tile.h"
#include "vector_tiles.h"

struct Variant {
    void (*compute)(const Problem&, const Slice&, int64_t, int64_t, const float*, const float*, float*, float*) =
        nullptr;
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

void solve(const Problem& problem, bool adjoint, const float* weight, const int64_t weight_step[4]) {
    const Variant variants = variant();
    const Segments& parts = adjoint ? problem.out : problem.in;
    WeightPart weight_parts[4];
    int64_t widest = 0;
    for (int i = 0; i < parts.count; ++i) weight_parts[i] = parts.items[i].part;
    for (const Segment& each : problem.in) widest = std::max(widest, each.part.channels);
    const std::vector<float> zeros(round_up(widest, kMaxLanes));
    const int64_t c = round_up(problem.in.channels, variants.filters.lanes), slice_size = filters_together(problem);
    const int64_t k = variants.filters.padded(slice_size), together = tiles_together(c, k), tiles = problem.tiles();
    const Floats filters(kPoints * problem.in.channels * k);
    for (Slice slice{0, 0}; slice.first < problem.out.channels; slice.first += slice.count) {
        slice.count = std::min(slice_size, problem.out.channels - slice.first);
        transform_filters(
            {4, transform_2x2}, weight_parts, parts.count, adjoint, problem.in.channels, slice.first, slice.count,
            weight, weight_step, variants.filters, filters.get());
        parallel_for((tiles + together - 1) / together, 1, [&](int64_t begin, int64_t end) {
            const Floats v(kPoints * together * c), m(kPoints * together * k);
            for (int64_t i = begin; i < end; ++i)
                variants.compute(
                    problem, slice, i * together, std::min(together, tiles - i * together), zeros.data(), filters.get(),
                    v.get(), m.get());
        });
    }
}

Segments outputs(const Geometry& g, const float* x, float* y) {
    Segment segment;
    segment.part.channels = segment.pixel = g.k;
    segment.x = x, segment.y = y;
    segment.height = g.p, segment.width = g.q;
    Segments result;
    result.add(segment);
    return result;
}

}  // namespace

void winograd_2x2(
    const Geometry& g, const WinogradSources& sources, const Ratio& ratio, const float* weight,
    const int64_t weight_step[4], const float* bias, float negative_slope, float* y) {
    Problem problem{input_segments(g, sources, false), outputs(g, nullptr, y), g.n, (g.p + 1) / 2, (g.q + 1) / 2};
    problem.bias = bias, problem.negative_slope = negative_slope;
    problem.ratio = static_cast<const float*>(ratio.values), problem.ratio_step = ratio.n == 1 ? 0 : g.p * g.q;
    solve(problem, false, weight, weight_step);
}

void winograd_2x2_input_gradient(
    const Geometry& g, const WinogradSources& sources, const float* weight, const int64_t weight_step[4],
    const float* scaled) {
    // Tiles of the input, or of the pixels of one parity.
    const int64_t h = (g.h + g.stride_h - 1) / g.stride_h, w = (g.w + g.stride_w - 1) / g.stride_w;
    const Problem problem{outputs(g, scaled, nullptr), input_segments(g, sources, true), g.n, (h + 1) / 2, (w + 1) / 2};
    solve(problem, true, weight, weight_step);
}

}  // namespace pconv::cpu
