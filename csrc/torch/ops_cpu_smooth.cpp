// smooth_fill: holes filled by a thin plate under tension, csrc/cpu/smooth_fill.cpp.
#include "schemas.h"
#include "smooth_checks.h"

#include <torch/csrc/stable/library.h>

namespace pconv {
namespace {

Tensor smooth_fill(Tensor input, Tensor valid, double tension, double tolerance, int64_t max_iterations) {
    check_smooth_fill(input, valid, tension, tolerance, max_iterations);
    const Layout layout = layout_of(input);
    const Tensor mask = torch::stable::contiguous(valid);
    const cpu::SmoothFill fill{
        input.size(0),
        input.size(1),
        input.size(2),
        input.size(3),
        layout,
        dtype_of(input, "input"),
        static_cast<const uint8_t*>(mask.const_data_ptr()),
        mask.size(0),
        mask.size(1),
        tension,
        tolerance,
        max_iterations};
    const Tensor x = laid_out(input, layout);
    Tensor out = torch::stable::clone(x);
    if (out.numel() == 0) return out;
    const int64_t empty = cpu::plane_without_valid(fill);
    PCONV_EXPECT(
        empty < 0, "mask: expected at least one valid pixel in each sample and channel, got none in sample ",
        empty / fill.mask_c, ", channel ", empty % fill.mask_c);
    cpu::smooth_fill(fill, x.const_data_ptr(), out.mutable_data_ptr());
    return out;
}

}  // namespace
}  // namespace pconv

STABLE_TORCH_LIBRARY_FRAGMENT(pconv_cuda, m) { m.def("smooth_fill" PCONV_SMOOTH_FILL_SCHEMA); }
STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CPU, m) { m.impl("smooth_fill", TORCH_BOX(&pconv::smooth_fill)); }
