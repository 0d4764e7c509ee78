// Planes of smooth_fill beyond their border.
#pragma once

#include "smooth_levels.h"

namespace pconv::cpu {

// Beyond the border: for stencils the reflection, which makes L(L(u)) one 13-point stencil everywhere. For restriction,
// the transpose of doubling, nothing beyond an odd side.
enum class Beyond { reflected, nothing_if_odd };

template <class T>
void reflect(
    const SmoothLevel& level, const std::vector<SmoothBlock>& blocks, const std::vector<int32_t>& border, T* plane,
    Beyond beyond = Beyond::reflected) {
    const int64_t h = level.h, w = level.w;
    const bool no_right = beyond == Beyond::nothing_if_odd && w % 2,
               no_below = beyond == Beyond::nothing_if_odd && h % 2;
    for (const int32_t index : border) {
        const SmoothBlock& b = blocks[size_t(index)];
        T* const row = plane + level.at(b.y, 0);
        if (b.x == 0) row[-1] = row[0], row[-2] = row[w > 1 ? 1 : 0];
        if (b.x + kBlock > w - 2) {
            row[w] = no_right ? T(0) : row[w - 1];
            row[w + 1] = no_right ? T(0) : row[w > 1 ? w - 2 : 0];
        }
        const T* const from = row + b.x - 2;
        constexpr int64_t count = kBlock + 4;
        const auto copy = [&](int64_t y, bool zeros) {
            T* const to = plane + level.at(y, b.x) - 2;
            for (int64_t i = 0; i < count; ++i) to[i] = zeros ? T(0) : from[i];
        };
        if (b.y == 0) copy(-1, false);
        if (b.y == 1 || h == 1) copy(-2, false);
        if (b.y == h - 1) copy(h, no_below);
        if (b.y == h - 2 || h == 1) copy(h + 1, no_below);
    }
}

}  // namespace pconv::cpu
