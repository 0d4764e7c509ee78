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

// A part of a kernel's channels (of the adjoint: of its filters), and where their 3x3 taps are in the weight.
struct WeightPart {
    int64_t first = 0, channels = 0;                 // first: a multiple of 16
    int64_t weight_first = 0;                        // the same channel in the weight
    int rows[3] = {0, 1, 2};                         // of the weight's window, -1: there is none
    int columns[3] = {0, 1, 2};                      // as they are to be used, so turned about for the adjoint
    unsigned row_points = ~0u, column_points = ~0u;  // bits: points of a tile that it needs
    bool sparse = false;                             // the others' filters are not read
    bool needs(int row, int column) const { return (row_points >> row & 1) && (column_points >> column & 1); }
};

// G g G^T of a vector of filters: g [9, 16] into u [side * side, 16].
struct FilterTransform {
    int side;
    void (*apply)(const float* g, float* u);
};

// U [side * side, a plane of the layout] of `count` filters from `first` on. The parts are of the channels or, of the
// adjoint, of the filters; of the former what a sparse part does not need is not written.
void transform_filters(
    const FilterTransform& transform, const WeightPart* parts, int part_count, bool adjoint, int64_t channels,
    int64_t first, int64_t count, const float* weight, const int64_t step[4], const FilterLayout& layout, float* u);

// A part of dw [K, C, R, S] with its strides from dU [16, C, padded K]. fold(du, plane, dg): 16 filters' values,
// `plane` apart, into dg [9, 16].
void fold_filters(
    const WeightPart& part, void (*fold)(const float* du, int64_t plane, float* dg), const float* du, int64_t plane,
    int64_t filters, int64_t padded_k, float* dw, const int64_t step[4]);

}  // namespace pconv::cpu
