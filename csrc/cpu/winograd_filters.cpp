// The filters' side of the Winograd kernels. Either the weight's channels or its filters lie side by side
// (channels_last or the adjoint), and the other axis has steps of many kilobytes, of which a cache holds few: vectors
// go along the former, and through a small block where the result has filters side by side.
#include "parallel.h"
#include "winograd.h"

#include <cstring>

namespace pconv::cpu {
namespace {

constexpr int kMaxPoints = 36;

// 9 taps of `count` filters or channels, `step` apart; zeros behind them, and where a part has no tap.
void gather_taps(
    const WeightPart& part, const float* weight, int64_t count, int64_t step, int64_t row, int64_t column, float* g) {
    for (int tap = 0; tap < 9; ++tap, g += kMaxLanes) {
        const int r = part.rows[tap / 3], s = part.columns[tap % 3];
        const int64_t here = r < 0 || s < 0 ? 0 : count;
        const float* source = weight + (here ? r * row + s * column : 0);
        if (step == 1 && here == kMaxLanes) {
            std::memcpy(g, source, kMaxLanes * sizeof(float));
            continue;
        }
        for (int64_t l = 0; l < here; ++l) g[l] = source[l * step];
        for (int64_t l = here; l < kMaxLanes; ++l) g[l] = 0;
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
    const FilterTransform& transform, const WeightPart* parts, int part_count, bool adjoint, int64_t channels,
    int64_t first, int64_t count, const float* weight, const int64_t step[4], const FilterLayout& layout, float* u) {
    const int points = transform.side * transform.side;
    const int64_t plane = channels * layout.padded(count), lanes = layout.lanes;
    const int64_t k_step = step[adjoint ? 1 : 0], c_step = step[adjoint ? 0 : 1];
    // What one thread does: `here` filters from k on and channels [c, c + width) of one part, whose weights begin at
    // `source`.
    const auto transform_run = [&](const WeightPart& part, const float* source, int64_t k, int64_t here, int64_t c,
                                   int64_t width, float* block) {
        alignas(64) float g[9 * kMaxLanes], one[kMaxPoints * kMaxLanes];
        const auto put = [&](int64_t channel, const float* from, int64_t from_step) {
            const int64_t at = layout.at(channel, k - first, channels, count);
            for (int point = 0; point < points; ++point)
                if (adjoint || !part.sparse || part.needs(point / transform.side, point % transform.side))
                    copy_vector(u + point * plane + at, from + point * from_step, lanes);
        };
        if (k_step < c_step) {
            for (int64_t i = 0; i < width; ++i) {
                gather_taps(part, source + i * c_step, here, k_step, step[2], step[3], g);
                transform.apply(g, one);
                put(c + i, one, kMaxLanes);
            }
            return;
        }
        for (int64_t start = 0; start < width; start += kMaxLanes) {  // block: [points, channels, filters]
            const int64_t some = std::min(kMaxLanes, width - start);
            for (int64_t l = 0; l < lanes; ++l) {
                const float* filter = source + std::min(l, here - 1) * k_step + start * c_step;
                gather_taps(part, filter, l < here ? some : 0, c_step, step[2], step[3], g);
                transform.apply(g, one);
                for (int point = 0; point < points; ++point)
                    for (int64_t i = 0; i < kMaxLanes; ++i)
                        block[(point * kMaxLanes + i) * kMaxLanes + l] = one[point * kMaxLanes + i];
            }
            for (int64_t i = 0; i < some; ++i) put(c + start + i, block + i * kMaxLanes, kMaxLanes * kMaxLanes);
        }
    };
    parallel_for(
        layout.padded(count) / lanes, grain_for(lanes * channels * points * 8), [&](int64_t begin, int64_t end) {
            const Floats block(points * kMaxLanes * kMaxLanes);
            for (int64_t k = first + begin * lanes; k < first + end * lanes; k += lanes) {
                const int64_t here = std::min(lanes, first + count - k);
                for (const WeightPart* part = parts; part < parts + part_count; ++part) {
                    if (!adjoint) {
                        const float* source = weight + k * k_step + part->weight_first * c_step;
                        transform_run(*part, source, k, here, part->first, part->channels, block.get());
                    } else if (k >= part->first && k < part->first + part->channels) {
                        const float* source = weight + (part->weight_first + k - part->first) * k_step;
                        const int64_t inside = std::min(here, part->first + part->channels - k);
                        transform_run(*part, source, k, inside, 0, channels, block.get());
                    }
                }
            }
        });
}

void fold_filters(
    const WeightPart& part, void (*fold)(const float* du, int64_t plane, float* dg), const float* du, int64_t plane,
    int64_t filters, int64_t padded_k, float* dw, const int64_t step[4]) {
    const int64_t blocks = round_up(part.channels, kMaxLanes) / kMaxLanes;
    parallel_for(blocks, grain_for(kMaxLanes * padded_k * 32 * 8), [&](int64_t begin, int64_t end) {
        alignas(64) float dg[kMaxLanes][9 * kMaxLanes];  // [channels, taps, filters]
        for (int64_t c = begin * kMaxLanes; c < std::min(end * kMaxLanes, part.channels); c += kMaxLanes) {
            const int64_t channels = std::min(kMaxLanes, part.channels - c);
            for (int64_t k = 0; k < filters; k += kMaxLanes) {
                for (int64_t i = 0; i < channels; ++i) fold(du + (part.first + c + i) * padded_k + k, plane, dg[i]);
                for (int64_t l = 0; l < std::min(kMaxLanes, filters - k); ++l)
                    for (int tap = 0; tap < 9; ++tap) {
                        const int r = part.rows[tap / 3], s = part.columns[tap % 3];
                        if (r < 0 || s < 0) continue;
                        float* to =
                            dw + (k + l) * step[0] + (part.weight_first + c) * step[1] + r * step[2] + s * step[3];
                        for (int64_t i = 0; i < channels; ++i) to[i * step[1]] = dg[i][tap * kMaxLanes + l];
                    }
            }
        }
    });
}

}  // namespace pconv::cpu
