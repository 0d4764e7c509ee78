// The index arithmetic of the decoder's stage (docs/design.md, "The decoder's stage"), in one place.
//
// A 3x3 convolution over an image that was doubled by nearest neighbours is four 2x2 convolutions over the small one, a
// phase (a, b) for each parity of the output's row and column. Of the filter's rows w0 w1 w2 (columns alike):
//     a = 0:  tap 0, row p - 1, has w0          tap 1, row p,     has w1 + w2
//     a = 1:  tap 0, row p,     has w0 + w1     tap 1, row p + 1, has w2
// Convolved with a padding of 1, all four come out of one library call, [N, 4 K, H / 2 + 1, W / 2 + 1]: phase (a, b) of
// the output pixel (2 p + a, 2 q + b) lies at (p + a, q + b), channels (2 a + b) K ... + K.
#pragma once

#include "../geometry.h"

namespace pconv::cpu {

// Of which tap of phase a the filter's row (or column) r is a part.
constexpr int tap_of(int a, int r) { return a == 0 ? (r > 0) : (r > 1); }

// Where the pixel (y, x) of image n finds its phase in the library's output (channels last), in elements.
struct PhasePlace {
    int64_t half_h, half_w, filters;  // H / 2, W / 2, K
    int64_t nhwc(int64_t n, int64_t y, int64_t x) const {
        const int64_t a = y & 1, b = x & 1, i = (y >> 1) + a, j = (x >> 1) + b;
        return (((n * (half_h + 1) + i) * (half_w + 1) + j) * 4 + 2 * a + b) * filters;
    }
    // The plane of filter k's phase (a, b), channels first.
    int64_t nchw(int64_t n, int64_t k, int64_t a, int64_t b) const {
        return ((n * 4 + 2 * a + b) * filters + k) * (half_h + 1) * (half_w + 1);
    }
};

}  // namespace pconv::cpu
