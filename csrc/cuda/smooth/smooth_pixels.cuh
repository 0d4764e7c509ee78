// What the kernels of smooth_fill share: where a thread's pixel lies, the reflected border, the plate, doubling.
#pragma once

#include "../indexing.cuh"
#include "../numeric.cuh"
#include "smooth.h"

namespace pconv::cuda {

struct SmoothPixel {
    int64_t plane, y, x;
};

PCONV_DEV SmoothPixel smooth_pixel(const SmoothLevel& level, int64_t item) {
    const int64_t x = item % level.w, row = item / level.w;
    return {row / level.h, row % level.h, x};
}

PCONV_DEV int64_t mask_plane(const SmoothLevel& level, int64_t plane) {
    const int64_t n = plane / level.channels, c = plane % level.channels;
    return (level.mask_n == 1 ? 0 : n) * level.mask_c + (level.mask_c == 1 ? 0 : c);
}

PCONV_DEV bool is_unknown(const SmoothLevel& level, const SmoothPixel& at) {
    return level.unknown[(mask_plane(level, at.plane) * level.h + at.y) * level.w + at.x] != 0;
}

// The picture goes on by reflection, its border pixels repeated. A side of one pixel is that pixel everywhere.
PCONV_DEV int64_t reflected(int64_t i, int64_t size) {
    const int64_t inside = i < 0 ? -1 - i : i >= size ? 2 * size - 1 - i : i;
    return inside < 0 ? 0 : inside >= size ? size - 1 : inside;
}

// stiffness * L(L(u)) - tension * L(u) as differences from the pixel: the weights' sum is 0 whatever their rounding.
// at(dy, dx) reads a neighbour.
template <class Wide, class At>
PCONV_DEV Wide plate_of(Wide stiffness, Wide tension, const At& at) {
    const Wide c = at(0, 0);
    const Wide sides = ((at(0, -1) - c) + (at(0, 1) - c)) + ((at(-1, 0) - c) + (at(1, 0) - c));
    const Wide corners = ((at(-1, -1) - c) + (at(1, 1) - c)) + ((at(1, -1) - c) + (at(-1, 1) - c));
    const Wide tips = ((at(0, -2) - c) + (at(0, 2) - c)) + ((at(-2, 0) - c) + (at(2, 0) - c));
    return stiffness * (2 * corners + tips - 8 * sides) - tension * sides;
}

template <class Wide, class T>
PCONV_DEV Wide plate_in_plane(const SmoothLevel& level, const T* plane, int64_t y, int64_t x) {
    return plate_of<Wide>(Wide(level.stiffness), Wide(level.tension), [&](int dy, int dx) {
        return Wide(plane[reflected(y + dy, level.h) * level.w + reflected(x + dx, level.w)]);
    });
}

// The plane below at a pixel of this one, bilinear between the pixels' centres.
template <class T>
PCONV_DEV T doubled_at(const SmoothLevel& coarse, const T* plane, int64_t y, int64_t x) {
    const int64_t rows[2] = {y / 2, reflected(y / 2 + (y % 2 ? 1 : -1), coarse.h)};
    const int64_t columns[2] = {x / 2, reflected(x / 2 + (x % 2 ? 1 : -1), coarse.w)};
    const auto row = [&](int64_t r) {
        return T(0.75) * plane[r * coarse.w + columns[0]] + T(0.25) * plane[r * coarse.w + columns[1]];
    };
    return T(0.75) * row(rows[0]) + T(0.25) * row(rows[1]);
}

// Sums and planes are in double for doubles, else in float.
template <class Body>
Status by_smooth_type(DType dtype, const char* name, const Body& body) {
    if (dtype == DType::u8) return Status{cudaErrorInvalidValue, name};
    return dtype == DType::f64 ? body(Type<double>{}) : body(Type<float>{});
}

constexpr int smooth_threads = 256;

}  // namespace pconv::cuda
