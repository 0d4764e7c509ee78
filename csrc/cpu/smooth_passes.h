// The passes of smooth_fill over blocks of 16 pixels. Stencils read planes; what a pass needs at its own pixels alone
// lies packed, [blocks, 16]. Planes are 0 outside the unknown pixels but for their reflected halos.
#pragma once

#include "numeric.h"
#include "smooth_levels.h"

namespace pconv::cpu {

// One pass' arguments; what a pass does not name is not used.
template <class T>
struct SmoothPass {
    const SmoothBlock* blocks;
    const float* mask;  // [blocks, 16]
    int64_t pitch;
    T centre, side, diagonal, far;   // the plate's 13 weights
    T *r, *x, *q, *rest, *sum;       // [blocks, 16]
    const T* from;                   // a plane, or one level's down or up
    T* to;                           // a plane
    int64_t from_pitch, from_first;  // from_first: of pixel (0, 0)
    T scale, keep, add;
    T* weight;             // a plane
    const T* from_weight;  // a plane
};

// stiffness * L(L(p)) - tension * L(p) at one pixel, L the sum of the four neighbours minus four times the pixel.
template <class T>
PCONV_INLINE T plate_at(const T* p, int64_t s, T centre, T side, T diagonal, T far) {
    const T sides = (p[-1] + p[1]) + (p[-s] + p[s]);
    const T corners = (p[-s - 1] + p[-s + 1]) + (p[s - 1] + p[s + 1]);
    const T tips = (p[-2] + p[2]) + (p[-2 * s] + p[2 * s]);
    return centre * p[0] + side * sides + diagonal * corners + far * tips;
}

// The same of differences, computed in Wide: the weights' sum is 0 whatever their rounding. A sum of 1e-6 would act on
// the picture's values, which are far larger than their differences, and bend wide holes by grey levels.
template <class Wide, class T>
PCONV_INLINE Wide plate_of_differences(const T* p, int64_t s, T side, T diagonal, T far) {
    const Wide c = p[0];
    const Wide sides = ((p[-1] - c) + (p[1] - c)) + ((p[-s] - c) + (p[s] - c));
    const Wide corners = ((p[-s - 1] - c) + (p[s + 1] - c)) + ((p[s - 1] - c) + (p[-s + 1] - c));
    const Wide tips = ((p[-2] - c) + (p[2] - c)) + ((p[-2 * s] - c) + (p[2 * s] - c));
    return Wide(side) * sides + Wide(diagonal) * corners + Wide(far) * tips;
}

#define PCONV_SMOOTH_BLOCKS                                         \
    for (int64_t b = begin; b < end; ++b) {                         \
        const int64_t offset = a.blocks[b].offset, at = b * kBlock; \
        const float* const __restrict mask = a.mask + at;           \
        (void)offset, (void)mask;

// r = -plate(from), in double: the terms are large beside their sum.
template <class T>
PCONV_INLINE void residual_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    PCONV_SMOOTH_BLOCKS
    const T* const p = a.from + offset;
    T* const __restrict r = a.r + at;
#pragma GCC ivdep
    for (int64_t i = 0; i < kBlock; ++i) {
        const double bent = plate_of_differences<double>(p + i, a.pitch, a.side, a.diagonal, a.far);
        r[i] = mask[i] != 0 ? T(-bent) : T(0);
    }
}
}

// The smoother's first step of x = 0: rest = r, to = x = scale * r.
template <class T>
PCONV_INLINE void first_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    PCONV_SMOOTH_BLOCKS
    const T* const __restrict r = a.r + at;
    T* const __restrict x = a.x + at, * const __restrict rest = a.rest + at, * const __restrict to = a.to + offset;
#pragma GCC ivdep
    for (int64_t i = 0; i < kBlock; ++i) rest[i] = r[i], x[i] = to[i] = a.scale * r[i];
}
}

// The same behind a step of the conjugate gradients: sum += keep * from, r -= keep * q.
template <class T>
PCONV_INLINE void step_and_first_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    PCONV_SMOOTH_BLOCKS
    const T* const __restrict q = a.q + at, * const __restrict p = a.from + offset;
    T* const __restrict r = a.r + at, * const __restrict sum = a.sum + at, * const __restrict x = a.x + at;
    T* const __restrict rest = a.rest + at, * const __restrict to = a.to + offset;
#pragma GCC ivdep
    for (int64_t i = 0; i < kBlock; ++i) {
        sum[i] += a.keep * p[i];
        const T left = r[i] - a.keep * q[i];
        r[i] = rest[i] = left;
        x[i] = to[i] = a.scale * left;
    }
}
}

// rest -= plate(from), d = keep * from + add * rest, x += d; to = d, or to = x where `last`.
template <class T, bool last>
PCONV_INLINE void smooth_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    PCONV_SMOOTH_BLOCKS
    const T* const p = a.from + offset;
    T* const __restrict rest = a.rest + at, * const __restrict x = a.x + at, * const __restrict to = a.to + offset;
#pragma GCC ivdep
    for (int64_t i = 0; i < kBlock; ++i) {
        const T left = rest[i] - T(mask[i]) * plate_at<T>(p + i, a.pitch, a.centre, a.side, a.diagonal, a.far);
        const T d = a.keep * p[i] + a.add * left;
        rest[i] = left;
        x[i] += d;
        to[i] = last ? x[i] : d;
    }
}
}

// rest -= plate(from); to = rest.
template <class T>
PCONV_INLINE void rest_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    PCONV_SMOOTH_BLOCKS
    const T* const p = a.from + offset;
    T* const __restrict rest = a.rest + at, * const __restrict to = a.to + offset;
#pragma GCC ivdep
    for (int64_t i = 0; i < kBlock; ++i)
        to[i] = rest[i] -= T(mask[i]) * plate_at<T>(p + i, a.pitch, a.centre, a.side, a.diagonal, a.far);
}
}

// rest -= plate(from), from the correction of the level below: x += from + d and to = d = scale * rest.
template <class T>
PCONV_INLINE void corrected_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    PCONV_SMOOTH_BLOCKS
    const T* const p = a.from + offset;
    T* const __restrict rest = a.rest + at, * const __restrict x = a.x + at, * const __restrict to = a.to + offset;
#pragma GCC ivdep
    for (int64_t i = 0; i < kBlock; ++i) {
        const T left = rest[i] - T(mask[i]) * plate_at<T>(p + i, a.pitch, a.centre, a.side, a.diagonal, a.far);
        rest[i] = left;
        to[i] = a.scale * left;
        x[i] += p[i] + a.scale * left;
    }
}
}

// q = plate(from); returns the sum of from * q.
template <class T>
PCONV_INLINE double product_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    T lanes[kBlock] = {};
    PCONV_SMOOTH_BLOCKS
    const T* const p = a.from + offset;
    T* const __restrict q = a.q + at;
#pragma GCC ivdep
    for (int64_t i = 0; i < kBlock; ++i) {
        q[i] = T(mask[i]) * plate_of_differences<T>(p + i, a.pitch, a.side, a.diagonal, a.far);
        lanes[i] += p[i] * q[i];
    }
}
double total = 0;
for (const T lane : lanes) total += double(lane);
return total;
}

// The sum of r * x.
template <class T>
PCONV_INLINE double dot_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    T lanes[kBlock] = {};
    const T* const __restrict r = a.r, * const __restrict x = a.x;
    for (int64_t at = begin * kBlock; at < end * kBlock; at += kBlock)
        for (int64_t i = 0; i < kBlock; ++i) lanes[i] += r[at + i] * x[at + i];
    double total = 0;
    for (const T lane : lanes) total += double(lane);
    return total;
}

// to = x + keep * to
template <class T>
PCONV_INLINE void direction_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    PCONV_SMOOTH_BLOCKS
    const T* const __restrict x = a.x + at;
    T* const __restrict to = a.to + offset;
#pragma GCC ivdep
    for (int64_t i = 0; i < kBlock; ++i) to[i] = x[i] + a.keep * to[i];
}
}

// r = the transpose of doubling of the plane one level up.
template <class T>
PCONV_INLINE void restrict_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    constexpr T near = T(0.75), far = T(0.25);
    PCONV_SMOOTH_BLOCKS(void) offset;
    const int64_t s = a.from_pitch;
    const T* const p = a.from + a.from_first + 2 * a.blocks[b].y * s + 2 * a.blocks[b].x;
    T column[2 * kBlock + 2];
#pragma GCC ivdep
    for (int64_t i = 0; i < 2 * kBlock + 2; ++i) {
        const T* const c = p + i - 1;
        column[i] = far * (c[-s] + c[2 * s]) + near * (c[0] + c[s]);
    }
    T* const __restrict r = a.r + at;
    for (int64_t i = 0; i < kBlock; ++i)
        r[i] =
            T(mask[i]) * (far * (column[2 * i] + column[2 * i + 3]) + near * (column[2 * i + 1] + column[2 * i + 2]));
}
}

// to = the plane one level down, doubled, in the holes; elsewhere 0, or what was there where `keeps`.
template <class T, bool keeps>
PCONV_INLINE void double_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    constexpr T near = T(0.75), far = T(0.25);
    PCONV_SMOOTH_BLOCKS
    const int64_t y = a.blocks[b].y;
    const T* const p = a.from + a.from_first + y / 2 * a.from_pitch + a.blocks[b].x / 2;
    const int64_t other = y % 2 ? a.from_pitch : -a.from_pitch;
    T column[kBlock / 2 + 2], doubled[kBlock];
    for (int64_t i = 0; i < kBlock / 2 + 2; ++i) column[i] = near * p[i - 1] + far * p[i - 1 + other];
    for (int64_t i = 0; i < kBlock / 2; ++i) {
        doubled[2 * i] = near * column[i + 1] + far * column[i];
        doubled[2 * i + 1] = near * column[i + 1] + far * column[i + 2];
    }
    T* const __restrict to = a.to + offset;
    for (int64_t i = 0; i < kBlock; ++i) to[i] = mask[i] != 0 ? doubled[i] : (keeps ? to[i] : T(0));
}
}

// The start's way down, a partial convolution with a 2x2 window of ones: to = the mean of what has a weight, weight =
// how much of it there is, at most 1.
template <class T>
PCONV_INLINE void mean_pass(const SmoothPass<T>& a, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
        const int64_t s = a.from_pitch, place = a.from_first + 2 * a.blocks[b].y * s + 2 * a.blocks[b].x;
        const T *const v = a.from + place, *const w = a.from_weight + place;
        T* const __restrict to = a.to + a.blocks[b].offset, * const __restrict weight = a.weight + a.blocks[b].offset;
        for (int64_t i = 0; i < kBlock; ++i) {
            T sum = 0, count = 0;
            for (const int64_t k : {2 * i, 2 * i + 1, 2 * i + s, 2 * i + 1 + s}) {
                sum += w[k] > 0 ? w[k] * v[k] : T(0);  // a select: a halo may hold anything
                count += w[k];
            }
            to[i] = count > 0 ? sum / count : T(0);
            weight[i] = count < 1 ? count : T(1);
        }
    }
}

#undef PCONV_SMOOTH_BLOCKS

// ---- what is called: a function a type, compiled for each instruction set

namespace {

PCONV_CLONES void residual(const SmoothPass<float>& a, int64_t b, int64_t e) { residual_pass(a, b, e); }
PCONV_CLONES void residual(const SmoothPass<double>& a, int64_t b, int64_t e) { residual_pass(a, b, e); }
PCONV_CLONES void first(const SmoothPass<float>& a, int64_t b, int64_t e) { first_pass(a, b, e); }
PCONV_CLONES void first(const SmoothPass<double>& a, int64_t b, int64_t e) { first_pass(a, b, e); }
PCONV_CLONES void step_and_first(const SmoothPass<float>& a, int64_t b, int64_t e) { step_and_first_pass(a, b, e); }
PCONV_CLONES void step_and_first(const SmoothPass<double>& a, int64_t b, int64_t e) { step_and_first_pass(a, b, e); }
PCONV_CLONES void smooth(const SmoothPass<float>& a, int64_t b, int64_t e) { smooth_pass<float, false>(a, b, e); }
PCONV_CLONES void smooth(const SmoothPass<double>& a, int64_t b, int64_t e) { smooth_pass<double, false>(a, b, e); }
PCONV_CLONES void smooth_last(const SmoothPass<float>& a, int64_t b, int64_t e) { smooth_pass<float, true>(a, b, e); }
PCONV_CLONES void smooth_last(const SmoothPass<double>& a, int64_t b, int64_t e) { smooth_pass<double, true>(a, b, e); }
PCONV_CLONES void rest(const SmoothPass<float>& a, int64_t b, int64_t e) { rest_pass(a, b, e); }
PCONV_CLONES void rest(const SmoothPass<double>& a, int64_t b, int64_t e) { rest_pass(a, b, e); }
PCONV_CLONES void corrected(const SmoothPass<float>& a, int64_t b, int64_t e) { corrected_pass(a, b, e); }
PCONV_CLONES void corrected(const SmoothPass<double>& a, int64_t b, int64_t e) { corrected_pass(a, b, e); }
PCONV_CLONES double product(const SmoothPass<float>& a, int64_t b, int64_t e) { return product_pass(a, b, e); }
PCONV_CLONES double product(const SmoothPass<double>& a, int64_t b, int64_t e) { return product_pass(a, b, e); }
PCONV_CLONES double dot(const SmoothPass<float>& a, int64_t b, int64_t e) { return dot_pass(a, b, e); }
PCONV_CLONES double dot(const SmoothPass<double>& a, int64_t b, int64_t e) { return dot_pass(a, b, e); }
PCONV_CLONES void direction(const SmoothPass<float>& a, int64_t b, int64_t e) { direction_pass(a, b, e); }
PCONV_CLONES void direction(const SmoothPass<double>& a, int64_t b, int64_t e) { direction_pass(a, b, e); }
PCONV_CLONES void restricted(const SmoothPass<float>& a, int64_t b, int64_t e) { restrict_pass(a, b, e); }
PCONV_CLONES void restricted(const SmoothPass<double>& a, int64_t b, int64_t e) { restrict_pass(a, b, e); }
PCONV_CLONES void doubled(const SmoothPass<float>& a, int64_t b, int64_t e) { double_pass<float, false>(a, b, e); }
PCONV_CLONES void doubled(const SmoothPass<double>& a, int64_t b, int64_t e) { double_pass<double, false>(a, b, e); }
PCONV_CLONES void filled(const SmoothPass<float>& a, int64_t b, int64_t e) { double_pass<float, true>(a, b, e); }
PCONV_CLONES void filled(const SmoothPass<double>& a, int64_t b, int64_t e) { double_pass<double, true>(a, b, e); }
PCONV_CLONES void mean(const SmoothPass<float>& a, int64_t b, int64_t e) { mean_pass(a, b, e); }
PCONV_CLONES void mean(const SmoothPass<double>& a, int64_t b, int64_t e) { mean_pass(a, b, e); }

}  // namespace

}  // namespace pconv::cpu
