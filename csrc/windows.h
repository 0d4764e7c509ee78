// Windows over two or three axes, of ordinary and of transposed convolutions: what the CPU's and the CUDA kernel for
// counts of any dimension share.
//
// The window at an output position is a set of taps, each on an input position or on none. Of an ordinary convolution
// tap t at output o lies on o * stride - pad + t * dilation. Of a transposed one it lies on (o + pad - t * dilation) /
// stride where that is an integer: the output goes in steps of 1 / stride, and other taps fall between the inputs.
#pragma once

#include "geometry.h"

#ifdef __CUDACC__
#define PCONV_BOTH __host__ __device__ inline
#else
#define PCONV_BOTH inline
#endif

namespace pconv {

struct Axis {
    int64_t in, window, out;
    int64_t stride, pad, dilation;
};

constexpr int max_axes = 3;

// Where there are two axes the first of the three is {1, 1, 1, 1, 0, 1}.
struct Windows {
    Axis axis[max_axes];
    bool transposed;
    int64_t channels;  // of the input, in a group
    DType dtype;       // of the tensors: ratios are fp64 for doubles, else fp32
};

// On which input position a tap of the window at `out` lies; -1 where outside of the input, or between its positions.
PCONV_BOTH int64_t source_of(const Axis& axis, bool transposed, int64_t out, int64_t tap) {
    int64_t at = 0;
    if (transposed) {
        at = out + axis.pad - tap * axis.dilation;
        if (at % axis.stride != 0) return -1;
        at /= axis.stride;
    } else {
        at = out * axis.stride - axis.pad + tap * axis.dilation;
    }
    return at >= 0 && at < axis.in ? at : -1;
}

// How many taps of the window at `out` would lie on an input position, had the input no border.
PCONV_BOTH int64_t taps_of(const Axis& axis, bool transposed, int64_t out) {
    if (!transposed) return axis.window;
    int64_t taps = 0;
    for (int64_t tap = 0; tap < axis.window; ++tap) taps += (out + axis.pad - tap * axis.dilation) % axis.stride == 0;
    return taps;
}

// sum(1) of the window: without holes and without a border. A border is a hole.
PCONV_BOTH int64_t full_count(const Windows& w, int64_t depth, int64_t row, int64_t column) {
    return w.channels * taps_of(w.axis[0], w.transposed, depth) * taps_of(w.axis[1], w.transposed, row) *
           taps_of(w.axis[2], w.transposed, column);
}

}  // namespace pconv
