// smooth_fill's CUDA kernels (csrc/cuda/host/run_smooth.cpp). Nothing synchronises: that a plane has no valid pixel is
// checked by pconv_cuda.functional, and here its holes become 0.
#include "cuda_support.h"
#include "schemas.h"
#include "smooth_checks.h"

#include "../cuda/smooth/smooth.h"

#include <torch/csrc/stable/library.h>

namespace pconv::cuda {
namespace {

Tensor smooth_fill(Tensor input, Tensor valid, double tension, double tolerance, int64_t max_iterations) {
    check_smooth_fill(input, valid, tension, tolerance, max_iterations);
    const CudaCallGuard guard(input);
    if (device_of(input).arch < 80)
        return unfused<Tensor>("pconv_cuda::unfused_smooth_fill", input, valid, tension, tolerance, max_iterations);
    const Tensor x = laid_out(input, layout_of(input)), mask = torch::stable::contiguous(valid);
    Tensor out = torch::stable::clone(x);
    if (out.numel() == 0) return out;
    SmoothFill fill{};
    fill.n = input.size(0), fill.c = input.size(1), fill.h = input.size(2), fill.w = input.size(3);
    fill.dtype = dtype_of(input, "input");
    fill.input = x.const_data_ptr();
    fill.strides = strides_of(x);
    fill.mask = static_cast<const uint8_t*>(mask.const_data_ptr());
    fill.mask_n = mask.size(0), fill.mask_c = mask.size(1);
    fill.tension = tension, fill.tolerance = tolerance, fill.max_iterations = max_iterations;
    fill.out = out.mutable_data_ptr();
    Tensor workspace = torch::stable::new_zeros(input, {smooth_workspace(fill)}, ScalarType::Byte);
    const Status status = run_smooth(fill, workspace.mutable_data_ptr(), guard.stream);
    PCONV_EXPECT(
        status.ok(), "pconv_cuda: launching ", status.kernel, " failed: ", cudaGetErrorString(status.error), " (input ",
        fill.n, "x", fill.c, "x", fill.h, "x", fill.w, ")");
    return out;
}

}  // namespace
}  // namespace pconv::cuda

#ifdef PCONV_EMULATE
STABLE_TORCH_LIBRARY_FRAGMENT(pconv_emulated, m) { m.def("smooth_fill" PCONV_SMOOTH_FILL_SCHEMA); }
STABLE_TORCH_LIBRARY_IMPL(pconv_emulated, CPU, m) { m.impl("smooth_fill", TORCH_BOX(&pconv::cuda::smooth_fill)); }
#else
STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CUDA, m) { m.impl("smooth_fill", TORCH_BOX(&pconv::cuda::smooth_fill)); }
#endif
