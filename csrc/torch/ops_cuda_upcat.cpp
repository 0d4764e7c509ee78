// The decoder stage's CUDA operators: tensors are checked and allocated here, csrc/cuda/host/run_upcat.h does the rest.
// As in ops_cuda.cpp nothing synchronises, and with PCONV_EMULATE this is a library around the emulated kernels.
#include "cuda_support.h"
#include "schemas.h"
#include "upcat_checks.h"

#include "../cuda/host/run_upcat.h"
#include "../cuda/upcat/upcat.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace pconv::cuda {
namespace {

// What both passes take of a call, and what has to stay alive while its kernels are launched.
struct Stage {
    Geometry g;
    Place place;
    MaskBytes low_mask, skip_mask;
    Tensor low, skip, weight;

    Stage(
        const Geometry& geometry, const Tensor& given_low, const MaybeTensor& given_low_mask, const Tensor& given_skip,
        const MaybeTensor& given_skip_mask, const Tensor& given_weight)
        : g(geometry),
          place(given_low),
          low(laid_out(given_low, g.layout)),
          skip(laid_out(given_skip, g.layout)),
          weight(given_weight) {
        read_mask("low_mask", given_low_mask, low, low_mask);
        read_mask("skip_mask", given_skip_mask, skip, skip_mask);
    }

    void read_mask(const char* name, const MaybeTensor& given, const Tensor& source, MaskBytes& result) const {
        if (!given) return;
        check_upcat_mask(name, *given, source);
        cuda::read_mask(result, g, *given, name, place);
    }

    int64_t ratio_n() const { return std::max(low_mask.images, skip_mask.images); }

    void fill(Upcat& call, int64_t allow_tf32) const {
        call.geometry = g;
        call.low_channels = low.size(1);
        call.low_mask = low_mask.mask, call.skip_mask = skip_mask.mask;
        call.tf32 = allows_tf32(g, allow_tf32);
        call.low = low.const_data_ptr(), call.skip = skip.const_data_ptr(), call.weight = weight.const_data_ptr();
        call.weight_strides = strides_of(weight);
    }
};

std::tuple<Tensor, Tensor, Tensor> forward(
    Tensor low, MaybeTensor low_mask, Tensor skip, MaybeTensor skip_mask, Tensor weight, MaybeTensor bias,
    MaybeTensor phases, int64_t allow_tf32, double negative_slope) {
    const Geometry g = upcat_geometry(low, skip, weight);
    check_bias(g, low, bias);
    if (phases) {
        check_phases(*phases, g, low.size(1));
        PCONV_EXPECT(phases->device() == low.device(), "phases: expected low's device");
    }
    const Device device = device_of(low);
    if (device.arch < 80) return unfused_upcat(low, low_mask, skip, skip_mask, weight, bias, negative_slope);
    const Stage stage(g, low, low_mask, skip, skip_mask, weight);
    const Ints compact{stage.ratio_n(), 1, g.h, g.w};
    Tensor new_mask = empty_of(low, compact, ScalarType::Bool);
    Tensor ratios = empty_of(low, compact, g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float);
    Tensor y = empty_in(g.layout, low, {g.n, g.k, g.h, g.w});
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    // As upcat_phases lays them out; no copy where they came from there.
    const MaybeTensor filters = phases ? MaybeTensor(laid_out(*phases, Layout::nhwc)) : std::nullopt;

    UpcatForward call{};
    stage.fill(call, allow_tf32);
    call.phases = filters ? filters->const_data_ptr() : nullptr;
    call.bias = dense_bias ? dense_bias->const_data_ptr() : nullptr;
    call.negative_slope = negative_slope;
    call.ratio = ratios.mutable_data_ptr();
    call.ratio_n = compact[0];
    call.new_mask = static_cast<uint8_t*>(new_mask.mutable_data_ptr());
    call.y = y.mutable_data_ptr();
    Tensor workspace = empty_of(low, {upcat_forward_workspace(call, device)}, ScalarType::Byte);
    check(run_upcat_forward(call, device, data_or_null(workspace), stage.place.stream), g);
    return {y, new_mask, ratios};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    Tensor grad, Tensor low, MaybeTensor low_mask, Tensor skip, MaybeTensor skip_mask, Tensor weight, Tensor ratios,
    bool need_low, bool need_skip, bool need_weight, bool need_bias, int64_t allow_tf32) {
    const Geometry g = upcat_geometry(low, skip, weight);
    check_gradient(g, grad, low, ratios);
    const Device device = device_of(low);
    if (device.arch < 80)
        return unfused_upcat_backward(
            grad, low, low_mask, skip, skip_mask, weight, ratios, need_low, need_skip, need_weight, need_bias);
    const Stage stage(g, low, low_mask, skip, skip_mask, weight);
    const Tensor dense_ratios = torch::stable::contiguous(ratios), upstream = laid_out(grad, g.layout);
    // Outputs that nobody asked for are empty; each its own, for an operator's outputs must not be one tensor.
    const ScalarType dtype = low.scalar_type();
    const int64_t low_channels = low.size(1);
    Tensor dlow = need_low ? empty_in(g.layout, low, {g.n, low_channels, g.h / 2, g.w / 2}) : empty_of(low, {0}, dtype);
    Tensor dskip = need_skip ? empty_in(g.layout, low, {g.n, g.c - low_channels, g.h, g.w}) : empty_of(low, {0}, dtype);
    Tensor dw = need_weight ? empty_in(layout_of(weight), weight, {g.k, g.c, 3, 3}) : empty_of(low, {0}, dtype);
    Tensor db = empty_of(low, {need_bias ? g.k : 0}, dtype);

    UpcatBackward call{};
    stage.fill(call, allow_tf32);
    call.ratio = const_cast<void*>(dense_ratios.const_data_ptr());  // read
    call.ratio_n = ratios.size(0);
    call.grad = upstream.const_data_ptr();
    call.dlow = need_low ? data_or_null(dlow) : nullptr;
    call.dskip = need_skip ? data_or_null(dskip) : nullptr;
    call.dw = need_weight ? dw.mutable_data_ptr() : nullptr;
    if (need_weight) call.dw_strides = strides_of(dw);
    call.db = need_bias ? db.mutable_data_ptr() : nullptr;
    Tensor workspace = empty_of(low, {upcat_backward_workspace(call, device)}, ScalarType::Byte);
    check(run_upcat_backward(call, device, data_or_null(workspace), stage.place.stream), g);
    // Each gradient in its own input's layout.
    if (need_low) dlow = laid_out(dlow, layout_of(low));
    if (need_skip) dskip = laid_out(dskip, layout_of(skip));
    return {dlow, dskip, dw, db};
}

Tensor phases(Tensor weight, int64_t low_channels) {
    check_phase_arguments(weight, low_channels);
    if (device_of(weight).arch < 80) return unfused_phases(weight, low_channels);
    const Place place(weight);
    const int64_t filters = weight.size(0);
    Tensor result = empty_in(Layout::nhwc, weight, {4 * filters, low_channels, 2, 2});
    Geometry g{};  // for the error's words
    g.c = weight.size(1), g.k = filters, g.r = g.s = 3, g.groups = 1;
    check(
        upcat_phases(
            dtype_of(weight, "weight"), filters, low_channels, low_channels, weight.const_data_ptr(),
            strides_of(weight), result.mutable_data_ptr(), place.stream),
        g);
    return result;
}

}  // namespace
}  // namespace pconv::cuda

#ifdef PCONV_EMULATE

STABLE_TORCH_LIBRARY_FRAGMENT(pconv_emulated, m) {
    m.def("partial_conv2d_upcat" PCONV_UPCAT_SCHEMA);
    m.def("partial_conv2d_upcat_backward" PCONV_UPCAT_BACKWARD_SCHEMA);
    m.def("upcat_phases" PCONV_UPCAT_PHASES_SCHEMA);
}
STABLE_TORCH_LIBRARY_IMPL(pconv_emulated, CPU, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CUDA, m) {
#endif
    m.impl("partial_conv2d_upcat", TORCH_BOX(&pconv::cuda::forward));
    m.impl("partial_conv2d_upcat_backward", TORCH_BOX(&pconv::cuda::backward));
    m.impl("upcat_phases", TORCH_BOX(&pconv::cuda::phases));
}
