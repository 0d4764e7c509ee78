// The activation of an epilogue at inference: v < 0 ? negative_slope * v : v.
#pragma once

#include "numeric.h"

namespace pconv::cpu {

// relu is negative_slope == 0, a case of its own, since 0 times minus infinity would be NaN. NaN stays NaN.
template <class T>
PCONV_INLINE T activated(T value, T negative_slope, bool relu) {
    return value < 0 ? (relu ? T(0) : negative_slope * value) : value;
}

}  // namespace pconv::cpu
