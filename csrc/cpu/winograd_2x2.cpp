// 3x3 partial convolutions of stride 1, the decoder's stage among them, by Winograd's F(2x2, 3x3) (winograd_2x2.h). The
// stage's doubled and joined tensor is never made: patches are gathered from both sources, holes read as zeros, and
// ratio, bias and activation are applied to a tile before it is written.
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
            const double top = g[s * kMaxLanes + l], middle = g[(3 + s) * kMaxLanes + l], low = g[(6 + s) * kMaxLanes + l];
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

// Filters that are transformed before they are used: as many as stay in a far cache, for their transforms are three times
// the weight's size; whole blocks of them. The input is transformed for each slice again, a few percent of its products.
int64_t filters_together(const Conv3x3& conv) {
    constexpr int64_t kRoom = 4 << 20, kStep = 64;
    return std::min(conv.k, std::max(kRoom / (kPoints * conv.c * 4) / kStep, int64_t(1)) * kStep);
}

#define PCONV_TILE "winograd_2x2_tile.h"
#include "vector_tiles.h"

struct Variant {
    void (*compute)(
        const Conv3x3&, const Slice&, const Input3x3&, const Output3x3&, const Tiles&, int64_t, int64_t, const float*, const float*,
        float*, float*) = nullptr;
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

}  // namespace

void winograd_2x2(
    const Conv3x3& conv, const Input3x3& input, const float* weight, const int64_t weight_step[4],
    const Output3x3& output) {
    const Variant variants = variant();
    const Tiles tiles(conv);
    const std::vector<float> zeros(round_up(std::max(input.full.channels, input.low.channels), kMaxLanes));
    const int64_t c = round_up(conv.c, variants.filters.lanes), slice_size = filters_together(conv);
    const int64_t k = variants.filters.padded(slice_size), together = tiles_together(c, k);
    const Floats filters(kPoints * conv.c * k);
    for (Slice slice{0, 0}; slice.first < conv.k; slice.first += slice.count) {
        slice.count = std::min(slice_size, conv.k - slice.first);
        Conv3x3 part = conv;
        part.k = slice.count;
        transform_filters(
            part, {kPoints, transform_2x2, vanishes, input.low.channels, output.low_channels - slice.first},
            weight + slice.first * weight_step[conv.adjoint ? 1 : 0], weight_step, variants.filters, filters.get());
        parallel_for((tiles.count + together - 1) / together, 1, [&](int64_t begin, int64_t end) {
            const Floats v(kPoints * together * c), m(kPoints * together * k);
            for (int64_t i = begin; i < end; ++i)
                variants.compute(
                    conv, slice, input, output, tiles, i * together, std::min(together, tiles.count - i * together),
                    zeros.data(), filters.get(), v.get(), m.get());
        });
    }
}

}  // namespace pconv::cpu
