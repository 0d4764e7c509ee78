// The filters' side of the Winograd kernels. Either the weight's channels or its filters lie side by side (channels_last
// or the adjoint), and the other axis has steps of many kilobytes, of which a cache holds few: vectors go along the
// former, and through a small block where the result has filters side by side.
#include "parallel.h"
#include "winograd.h"

#include <cstring>

namespace pconv::cpu {
namespace {

constexpr int kMaxPoints = 36;

// 9 taps of `count` filters or channels, `step` apart; zeros behind them.
void gather_taps(
    const float* weight, int64_t count, int64_t step, int64_t row, int64_t column, bool turned, float* g) {
    for (int tap = 0; tap < 9; ++tap) {
        const int from = turned ? 8 - tap : tap;
        const float* source = weight + from / 3 * row + from % 3 * column;
        float* to = g + tap * kMaxLanes;
        if (step == 1 && count == kMaxLanes) {
            std::memcpy(to, source, kMaxLanes * sizeof(float));
            continue;
        }
        for (int64_t l = 0; l < count; ++l) to[l] = source[l * step];
        for (int64_t l = count; l < kMaxLanes; ++l) to[l] = 0;
    }
}

// 16 values, or 8: sizes that the compiler knows.
void copy_vector(float* to, const float* from, int64_t lanes) {
    if (lanes == kMaxLanes)
        std::memcpy(to, from, kMaxLanes * sizeof(float));
    else
        std::memcpy(to, from, kMaxLanes / 2 * sizeof(float));
}

}  // namespace

void transform_filters(
    const Conv3x3& conv, const Filters& filters, const float* weight, const int64_t step[4],
    const FilterLayout& layout, float* u) {
    const int64_t padded = layout.padded(conv.k), plane = conv.c * padded, lanes = layout.lanes;
    const int64_t k_step = step[conv.adjoint ? 1 : 0], c_step = step[conv.adjoint ? 0 : 1];
    const auto is_needed = [&](int point, int64_t c, int64_t k) {
        return !filters.vanishes || !filters.vanishes(point) ||
               (c >= filters.low_channels && k + lanes > filters.low_filters);
    };
    parallel_for(padded / lanes, grain_for(lanes * conv.c * filters.points * 8), [&](int64_t begin, int64_t end) {
        alignas(64) float g[9 * kMaxLanes], one[kMaxPoints * kMaxLanes];
        const Floats block(filters.points * kMaxLanes * kMaxLanes);  // [points, channels, filters]
        for (int64_t k = begin * lanes; k < end * lanes; k += lanes) {
            const int64_t here = std::min(lanes, conv.k - k);
            const auto put = [&](int64_t c, const float* from, int64_t from_step) {
                const int64_t at = layout.at(c, k, conv.c, conv.k);
                for (int point = 0; point < filters.points; ++point)
                    if (is_needed(point, c, k))
                        copy_vector(u + point * plane + at, from + point * from_step, lanes);
            };
            if (k_step < c_step) {
                for (int64_t c = 0; c < conv.c; ++c) {
                    const float* first = weight + k * k_step + c * c_step;
                    gather_taps(first, here, k_step, step[2], step[3], conv.adjoint, g);
                    filters.transform(g, one);
                    put(c, one, kMaxLanes);
                }
                continue;
            }
            for (int64_t c = 0; c < conv.c; c += kMaxLanes) {
                const int64_t channels = std::min(kMaxLanes, conv.c - c);
                for (int64_t l = 0; l < lanes; ++l) {
                    const float* first = weight + std::min(k + l, conv.k - 1) * k_step + c * c_step;
                    gather_taps(first, l < here ? channels : 0, c_step, step[2], step[3], conv.adjoint, g);
                    filters.transform(g, one);
                    for (int point = 0; point < filters.points; ++point)
                        for (int64_t i = 0; i < kMaxLanes; ++i)
                            block.get()[(point * kMaxLanes + i) * kMaxLanes + l] = one[point * kMaxLanes + i];
                }
                for (int64_t i = 0; i < channels; ++i)
                    put(c + i, block.get() + i * kMaxLanes, kMaxLanes * kMaxLanes);
            }
        }
    });
}

void fold_filters(
    const Conv3x3& conv, void (*fold)(const float* du, int64_t plane, float* dg), const float* du, int64_t padded_k,
    float* dw, const int64_t step[4]) {
    const int64_t plane = conv.c * padded_k, blocks = round_up(conv.c, kMaxLanes) / kMaxLanes;
    parallel_for(blocks, grain_for(kMaxLanes * padded_k * 32 * 8), [&](int64_t begin, int64_t end) {
        alignas(64) float dg[kMaxLanes][9 * kMaxLanes];  // [channels, taps, filters]
        for (int64_t c = begin * kMaxLanes; c < std::min(end * kMaxLanes, conv.c); c += kMaxLanes) {
            const int64_t channels = std::min(kMaxLanes, conv.c - c);
            for (int64_t k = 0; k < conv.k; k += kMaxLanes) {
                for (int64_t i = 0; i < channels; ++i) fold(du + (c + i) * padded_k + k, plane, dg[i]);
                for (int64_t l = 0; l < std::min(kMaxLanes, conv.k - k); ++l)
                    for (int tap = 0; tap < 9; ++tap) {
                        float* to = dw + (k + l) * step[0] + c * step[1] + tap / 3 * step[2] + tap % 3 * step[3];
                        for (int64_t i = 0; i < channels; ++i) to[i * step[1]] = dg[i][tap * kMaxLanes + l];
                    }
            }
        }
    });
}

}  // namespace pconv::cpu
