// What the Winograd kernels share: memory, and how transformed filters lie in it.
#pragma once

#include "kernels.h"

#include <algorithm>
#include <memory>

namespace pconv::cpu {

constexpr int64_t kTileRows = 6;   // tiles of a register tile
constexpr int64_t kMaxLanes = 16;  // of a vector

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Memory whose values are not set, on a cache line.
class Floats {
  public:
    explicit Floats(int64_t count) : lines_(new Line[round_up(count, kMaxLanes) / kMaxLanes]) {}
    float* get() const { return lines_[0].values; }

  private:
    struct alignas(64) Line {
        float values[kMaxLanes];
    };
    std::unique_ptr<Line[]> lines_;
};

// Filters at one of a tile's points: [padded K / block, C, block], the last block narrower. What a register tile reads
// lies in one stretch.
struct FilterLayout {
    int64_t lanes = kMaxLanes, block = kMaxLanes;
    int64_t padded(int64_t k) const { return round_up(k, lanes); }
    int64_t at(int64_t c, int64_t k, int64_t channels, int64_t filters) const {
        const int64_t first = k / block * block, width = std::min(block, padded(filters) - first);
        return first * channels + c * width + k - first;
    }
};

// G g G^T of a vector of filters: g [9, 16] into u [points, 16].
using FilterTransform = void (*)(const float* g, float* u);

// U [points, a plane of the layout] from the weight [K, C, 3, 3] with its strides; adjoint: of [C, K, 3, 3], the filters
// turned about.
struct Filters {
    int points;
    FilterTransform transform;
    bool (*vanishes)(int point);  // for the first channels or filters, and is not written for them
    int64_t low_channels = 0, low_filters = 0;
};
void transform_filters(
    const Conv3x3& conv, const Filters& filters, const float* weight, const int64_t step[4],
    const FilterLayout& layout, float* u);

// dw [K, C, 3, 3] with its strides from dU [points, C, padded K]. fold(du, plane, dg): its 16 filters' values, `plane`
// apart, into dg [9, 16].
void fold_filters(
    const Conv3x3& conv, void (*fold)(const float* du, int64_t plane, float* dg), const float* du, int64_t padded_k,
    float* dw, const int64_t step[4]);

}  // namespace pconv::cpu
