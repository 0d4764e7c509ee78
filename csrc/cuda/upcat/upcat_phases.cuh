// A 3x3 window over an image doubled by nearest neighbours sees 2 x 2 pixels of the small image, and which ones depends
// on the parity of the output pixel. So the decoder's stage is four convolutions with 2x2 windows, one a phase:
//
//   output row 2 p + a       a = 0: row p - 1 <- w0, row p <- w1 + w2        a = 1: row p <- w0 + w1, row p + 1 <- w2
//
// and the same for columns with b. In each axis place 0 or 1 of phase a stands for the small row p - 1 + a + place.
// The forward and low's gradient have to take the same rounded sums: both make them here.
#pragma once

#include "../ptx/sm80.cuh"

namespace pconv::cuda {

// The window's rows that fall together: from first_tap on, so many. This is also how often the small pixel counts.
PCONV_DEV constexpr int first_tap(int phase, int place) { return place == 0 ? 0 : 1 + phase; }
PCONV_DEV constexpr int taps_together(int phase, int place) { return place == phase ? 1 : 2; }

// The weight of place (y, x) in phase (a, b); load(r, s) is that of the window's tap. Summed in Sum, in this order.
template <class Sum, class Load>
PCONV_DEV Sum phase_sum(int a, int b, int y, int x, const Load& load) {
    Sum sum = 0;
#pragma unroll
    for (int r = 0; r < 3; ++r)
#pragma unroll
        for (int s = 0; s < 3; ++s) {
            const bool row = r >= first_tap(a, y) && r < first_tap(a, y) + taps_together(a, y);
            const bool column = s >= first_tap(b, x) && s < first_tap(b, x) + taps_together(b, x);
            if (row && column) sum += load(r, s);
        }
    return sum;
}

}  // namespace pconv::cuda
