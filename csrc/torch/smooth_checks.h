// What the operators of smooth_fill accept (pconv_cuda/functional.py has checked it with better messages).
#pragma once

#include "checks.h"

namespace pconv {

inline void check_smooth_fill(
    const Tensor& input, const Tensor& valid, double tension, double tolerance, int64_t max_iterations) {
    PCONV_EXPECT(input.dim() == 4, "input: expected (N, C, H, W), got ", shape_of(input));
    PCONV_EXPECT(dtype_of(input, "input") != DType::u8, "input: expected a floating dtype, got bytes");
    PCONV_EXPECT(
        valid.dim() == 4 && (valid.size(0) == 1 || valid.size(0) == input.size(0)) &&
            (valid.size(1) == 1 || valid.size(1) == input.size(1)) && valid.size(2) == input.size(2) &&
            valid.size(3) == input.size(3),
        "valid: expected (", input.size(0), "|1, 1|", input.size(1), ", ", input.size(2), ", ", input.size(3),
        "), got ", shape_of(valid));
    PCONV_EXPECT(
        valid.scalar_type() == ScalarType::Bool && valid.device() == input.device(),
        "valid: expected bool on the input's device");
    PCONV_EXPECT(tension >= 0 && tension <= 1, "tension: expected 0 to 1, got ", tension);
    PCONV_EXPECT(
        tolerance >= 0 && max_iterations >= 0, "tolerance, max_iterations: expected at least 0, got ", tolerance, ", ",
        max_iterations);
    // Blocks are numbered in 32 bits.
    PCONV_EXPECT(
        input.size(2) < (int64_t(1) << 30) && input.size(3) < (int64_t(1) << 30), "input: sides of 2^30 are too many");
}

}  // namespace pconv
