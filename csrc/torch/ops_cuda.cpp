// The operators' CUDA kernels: tensors are checked and allocated here, csrc/cuda does the rest on the current
// stream. Nothing synchronises, and all memory comes from torch's allocator, so a CUDA graph may capture it.
//
// With PCONV_EMULATE the same file is a library of CPU operators around the emulated kernels (tests/emulation): the
// glue is tested where there is no device.
#include "ops_cuda.h"
#include "cuda_support.h"
#include "schemas.h"

#include "../cuda/host/run.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace pconv::cuda {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

// Masks as bytes, and which of the input's channels each of its blocks stands for.
MaskBytes mask_bytes(
    const Geometry& g, const Tensor& input, const MaybeTensor& mask, const Ints& mask_channels, const Place& place) {
    MaskBytes result;
    if (!mask) return result;
    read_mask(result, g, *mask, "mask", place, second_block(g, input, *mask, mask_channels));
    return result;
}

Outputs forward(
    Tensor input, MaybeTensor mask, Ints mask_channels, Tensor weight, MaybeTensor bias, Ints stride, Ints padding,
    Ints dilation, int64_t groups, int64_t allow_tf32, double negative_slope) {
    const Geometry g = geometry_of(input, weight, stride, padding, dilation, groups);
    check_bias(g, input, bias);
    const Place place(input);
    const Device device = device_of(input);
    if (device.arch < 80)
        return unfused_forward(
            input, mask, mask_channels, weight, bias, stride, padding, dilation, groups, negative_slope);
    const MaskBytes bytes = mask_bytes(g, input, mask, mask_channels, place);
    const Ints compact = ratio_size(g, bytes, mask_channels);
    Tensor new_mask = empty_of(input, compact, ScalarType::Bool);
    Tensor ratios = empty_of(input, compact, g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float);
    Tensor y = empty_in(g.layout, input, {g.n, g.k, g.p, g.q});
    const Tensor x = laid_out(input, g.layout);
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;

    Forward call{};
    call.geometry = g;
    call.mask = bytes.mask;
    call.tf32 = allows_tf32(g, allow_tf32);
    call.x = x.const_data_ptr();
    call.weight = weight.const_data_ptr();
    call.weight_strides = strides_of(weight);
    call.bias = dense_bias ? dense_bias->const_data_ptr() : nullptr;
    call.ratio = ratios.mutable_data_ptr();
    call.new_mask = static_cast<uint8_t*>(new_mask.mutable_data_ptr());
    call.ratio_n = compact[0], call.ratio_groups = compact[1];
    call.y = y.mutable_data_ptr();
    call.negative_slope = negative_slope;
    Tensor workspace = empty_of(input, {forward_workspace(call, device)}, ScalarType::Byte);
    check(run_forward(call, device, data_or_null(workspace), place.stream), g);
    return {y, new_mask, ratios};
}

Outputs backward(
    Tensor grad, Tensor input, MaybeTensor mask, Ints mask_channels, Tensor weight, Tensor ratios, Ints stride,
    Ints padding, Ints dilation, int64_t groups, bool need_input, bool need_weight, bool need_bias,
    int64_t allow_tf32) {
    const Geometry g = geometry_of(input, weight, stride, padding, dilation, groups);
    check_gradient(g, grad, input, ratios);
    const Place place(input);
    const Device device = device_of(input);
    if (device.arch < 80)
        return unfused_backward(
            grad, input, mask, mask_channels, weight, ratios, stride, padding, dilation, groups, need_input,
            need_weight, need_bias);
    const MaskBytes bytes = mask_bytes(g, input, mask, mask_channels, place);
    const Tensor dense_ratios = torch::stable::contiguous(ratios);
    const Tensor upstream = laid_out(grad, g.layout), x = laid_out(input, g.layout);
    // Outputs that nobody asked for are empty; each its own, for an operator's outputs must not be one tensor.
    const ScalarType dtype = input.scalar_type();
    Tensor dx = need_input ? empty_in(g.layout, input, {g.n, g.c, g.h, g.w}) : empty_of(input, {0}, dtype);
    Tensor dw = need_weight ? empty_in(layout_of(weight), weight, {g.k, g.c / g.groups, g.r, g.s})
                            : empty_of(input, {0}, dtype);
    Tensor db = empty_of(input, {need_bias ? g.k : 0}, dtype);

    Backward call{};
    call.geometry = g;
    call.mask = bytes.mask;
    call.tf32 = allows_tf32(g, allow_tf32);
    call.grad = upstream.const_data_ptr();
    call.x = x.const_data_ptr();
    call.weight = weight.const_data_ptr();
    call.weight_strides = strides_of(weight);
    call.ratio = dense_ratios.const_data_ptr();
    call.ratio_n = ratios.size(0), call.ratio_groups = ratios.size(1);
    call.dx = need_input ? data_or_null(dx) : nullptr;
    call.dw = need_weight ? dw.mutable_data_ptr() : nullptr;
    if (need_weight) call.dw_strides = strides_of(dw);
    call.db = need_bias ? db.mutable_data_ptr() : nullptr;
    Tensor workspace = empty_of(input, {backward_workspace(call, device)}, ScalarType::Byte);
    check(run_backward(call, device, data_or_null(workspace), place.stream), g);
    return {dx, dw, db};
}

}  // namespace

void set_tf32_reader(Tf32Reader reader) { tf32_reader = reader; }
void set_wgmma(int choice) { wgmma_choice = choice; }

}  // namespace pconv::cuda

#ifdef PCONV_EMULATE

STABLE_TORCH_LIBRARY(pconv_emulated, m) {
    m.def("partial_conv2d" PCONV_FORWARD_SCHEMA);
    m.def("partial_conv2d_backward" PCONV_BACKWARD_SCHEMA);
}

STABLE_TORCH_LIBRARY_IMPL(pconv_emulated, CPU, m) {
    m.impl("partial_conv2d", TORCH_BOX(&pconv::cuda::forward));
    m.impl("partial_conv2d_backward", TORCH_BOX(&pconv::cuda::backward));
}

// For ctypes: the tests choose the device that is pretended, and answer for torch's setting.
extern "C" void pconv_emulated_device(int arch, int multiprocessors, int wgmma, int64_t max_elements) {
    pconv::cuda::emulated_device = {arch, multiprocessors, 227 << 10, wgmma != 0, max_elements};
}
extern "C" void pconv_emulated_operations_a_byte(int64_t count) {
    pconv::cuda::emulated_device.operations_a_byte = count;
}
extern "C" void pconv_emulated_tf32_reader(int (*reader)()) { pconv::cuda::set_tf32_reader(reader); }

#else

STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CUDA, m) {
    m.impl("partial_conv2d", TORCH_BOX(&pconv::cuda::forward));
    m.impl("partial_conv2d_backward", TORCH_BOX(&pconv::cuda::backward));
}

#endif
