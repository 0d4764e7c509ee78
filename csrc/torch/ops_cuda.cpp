// The operators' CUDA kernels: tensors are checked and allocated here, csrc/cuda does the rest on the current
// stream. Nothing synchronises, and all memory comes from torch's allocator, so a CUDA graph may capture it.
//
// With PCONV_EMULATE the same file is a library of CPU operators around the emulated kernels (tests/emulation): the
// glue is tested where there is no device.
#include "choice.h"
#include "schemas.h"

#include "../cuda/host/workspace.h"
#include "../cuda/upcat/upcat.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

namespace pconv::cuda {
namespace {

Sources read_sources(
    const Geometry& g, const Tensor& input, const MaybeTensor& mask, const MaybeTensor& skip,
    const MaybeTensor& skip_mask, bool upsample, const CudaCallGuard& guard) {
    return pconv::read_sources(
        g, input, mask, skip, skip_mask, upsample,
        [&](MaskBytes& result, const Tensor& given, const char* name) { read_mask(result, g, given, name, guard); });
}

// What both passes take of a call.
void describe_layer(
    const Geometry& g, const Sources& sources, const Tensor& weight, const Tensor& ratios, int64_t allow_tf32,
    Layer& call) {
    call.geometry = g;
    call.tf32 = allows_tf32(g, allow_tf32);
    call.x = sources.x.const_data_ptr(), call.mask = sources.mask.mask;
    if (sources.skip) {
        call.low_channels = sources.low_channels;
        call.skip = sources.skip->const_data_ptr(), call.skip_mask = sources.skip_mask.mask;
    }
    call.weight = weight.const_data_ptr();
    call.weight_strides = strides_of(weight);
    call.ratio = const_cast<void*>(ratios.const_data_ptr());  // written by the forward alone
    call.ratio_n = ratios.size(0), call.ratio_groups = ratios.size(1);
}

// A decoder stage's input, doubled and joined in memory, for the library's convolution.
Sources joined_sources(const Geometry& g, const Sources& sources, const Layer& call, const CudaCallGuard& guard) {
    Sources joined{empty_in(g.layout, sources.x, {g.n, g.c, g.h, g.w}), std::nullopt, {}, {}, 0};
    joined.mask.owner = empty_of(sources.x, {call.ratio_n, 2, g.h, g.w}, ScalarType::Byte);
    check(upcat_join(call, joined.x.mutable_data_ptr(), joined.mask.owner->mutable_data_ptr(), guard.stream), g);
    joined.mask.set_bytes();
    joined.mask.mask.second = int(sources.low_channels);
    joined.mask.holes = true;
    return joined;
}

std::tuple<Tensor, Tensor, Tensor> forward(
    Tensor input, MaybeTensor mask, MaybeTensor skip, MaybeTensor skip_mask, Tensor weight, MaybeTensor bias,
    Ints stride, Ints padding, Ints dilation, int64_t groups, bool upsample, MaybeTensor prepared, int64_t allow_tf32,
    double negative_slope) {
    const ConvolutionArguments arguments{stride, padding, dilation, groups};
    const Geometry g = geometry_of(input, skip, weight, arguments, upsample);
    check_bias(g, input, bias);
    check_prepared(g, input, prepared, upsample);
    const CudaCallGuard guard(input);
    Device device = device_of(input);
    if (device.arch < 80)
        return unfused<std::tuple<Tensor, Tensor, Tensor>>(
            "pconv_cuda::unfused_partial_conv2d", input, mask, skip, skip_mask, weight, bias, stride, padding, dilation,
            groups, upsample, prepared, allow_tf32, negative_slope);
    const Sources sources = read_sources(g, input, mask, skip, skip_mask, upsample, guard);
    const Ints compact = sources.ratio_size(g);
    Tensor new_mask = empty_of(input, compact, ScalarType::Bool), ratios = empty_of(input, compact, ratio_type(g));
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;
    // As upcat_phases lays them out; no copy where they came from there.
    const MaybeTensor phases = prepared ? MaybeTensor(laid_out(*prepared, Layout::nhwc)) : std::nullopt;

    Forward call{};
    describe_layer(g, sources, weight, ratios, allow_tf32, call);
    call.phases = phases ? phases->const_data_ptr() : nullptr;
    call.bias = dense_bias ? dense_bias->const_data_ptr() : nullptr;
    call.negative_slope = negative_slope;
    call.new_mask = static_cast<uint8_t*>(new_mask.mutable_data_ptr());
    const auto again = [&] {
        forward(
            input, mask, skip, skip_mask, weight, bias, stride, padding, dilation, groups, upsample, prepared,
            allow_tf32, negative_slope);
    };
    if (!choose_path(call, input, guard, device, again)) {
        const Sources whole = upsample ? joined_sources(g, sources, call, guard) : sources;
        const WindowRatio counts{g, whole.mask.mask, call.ratio, call.new_mask, call.ratio_n, call.ratio_groups};
        check(window_ratio(counts, guard.stream), g);
        if (g.n == 0) return {empty_in(g.layout, input, {g.n, g.k, g.p, g.q}), new_mask, ratios};
        const Ratio ratio{call.ratio, call.ratio_n, call.ratio_groups};
        const Tensor y = composed_forward(
            CudaPasses{guard}, g, whole.x, whole.mask, weight, dense_bias, ratio, false, arguments, negative_slope);
        return {y, new_mask, ratios};
    }
    Tensor y = empty_in(g.layout, input, {g.n, g.k, g.p, g.q});
    call.y = y.mutable_data_ptr();
    Tensor workspace = empty_of(input, {forward_workspace(call, device)}, ScalarType::Byte);
    check(run_forward(call, device, data_or_null(workspace), guard.stream), g);
    return {y, new_mask, ratios};
}

// ratio * gradient for the library's convolution, channels_last; the bias gradient is made with it.
Tensor scaled_gradient(const Backward& call, const Tensor& grad, bool wanted, const CudaCallGuard& guard) {
    const Geometry& g = call.geometry;
    const int64_t padded = round_up(g.k, 16 / bytes_of(g.dtype));
    Tensor scaled = empty_in(Layout::nhwc, grad, {wanted ? g.n : 0, padded, g.p, g.q});
    Tensor sums = empty_of(grad, {scale_gradient_workspace(g)}, ScalarType::Byte);
    check(
        scale_gradient(
            g, call.grad, dense(g.layout, g.k, g.p, g.q), call.ratio, call.ratio_n, call.ratio_groups, padded,
            wanted ? data_or_null(scaled) : nullptr, call.db, data_or_null(sums), guard.stream),
        g);
    return torch::stable::narrow(scaled, 1, 0, g.k);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    Tensor grad, Tensor input, MaybeTensor mask, MaybeTensor skip, MaybeTensor skip_mask, Tensor weight, Tensor ratios,
    Ints stride, Ints padding, Ints dilation, int64_t groups, bool upsample, bool need_input, bool need_skip,
    bool need_weight, bool need_bias, int64_t allow_tf32) {
    const ConvolutionArguments arguments{stride, padding, dilation, groups};
    const Geometry g = geometry_of(input, skip, weight, arguments, upsample);
    check_gradient(g, grad, input, ratios);
    const CudaCallGuard guard(input);
    Device device = device_of(input);
    if (device.arch < 80)
        return unfused<std::tuple<Tensor, Tensor, Tensor, Tensor>>(
            "pconv_cuda::unfused_partial_conv2d_backward", grad, input, mask, skip, skip_mask, weight, ratios, stride,
            padding, dilation, groups, upsample, need_input, need_skip, need_weight, need_bias, allow_tf32);
    const Sources sources = read_sources(g, input, mask, skip, skip_mask, upsample, guard);
    const Tensor dense_ratios = torch::stable::contiguous(ratios), upstream = laid_out(grad, g.layout);
    need_skip &= skip.has_value();
    const bool is_joined = skip && !upsample, need_x = need_input || (is_joined && need_skip);
    const auto gradient_of = [&](const Tensor& tensor) {
        const auto sizes = tensor.sizes();
        return empty_in(g.layout, input, Ints(sizes.begin(), sizes.end()));
    };
    Tensor dx = need_x ? gradient_of(sources.x) : no_gradient(input);
    Tensor dskip = need_skip && !is_joined ? gradient_of(*sources.skip) : no_gradient(input);
    Tensor dw = need_weight ? empty_in(layout_of(weight), weight, {g.k, g.c / g.groups, g.r, g.s}) : no_gradient(input);
    Tensor db = empty_of(input, {need_bias ? g.k : 0}, input.scalar_type());

    Backward call{};
    describe_layer(g, sources, weight, dense_ratios, allow_tf32, call);
    call.grad = upstream.const_data_ptr();
    call.dx = data_or_null(dx), call.dskip = data_or_null(dskip);
    call.dw = data_or_null(dw);
    if (need_weight) call.dw_strides = strides_of(dw);
    call.db = data_or_null(db);
    const auto again = [&] {
        backward(
            grad, input, mask, skip, skip_mask, weight, ratios, stride, padding, dilation, groups, upsample, need_input,
            need_skip, need_weight, need_bias, allow_tf32);
    };
    if (choose_path(call, input, guard, device, again)) {
        Tensor workspace = empty_of(input, {backward_workspace(call, device)}, ScalarType::Byte);
        check(run_backward(call, device, data_or_null(workspace), guard.stream), g);
    } else {
        const Sources whole = upsample ? joined_sources(g, sources, call, guard) : sources;
        const bool need_whole = need_x || (upsample && need_skip);
        const Tensor scaled = scaled_gradient(call, upstream, need_whole || need_weight, guard);
        Tensor of_whole;
        if (need_whole || need_weight)
            std::tie(of_whole, dw) = composed_backward(
                CudaPasses{guard}, g, whole.x, whole.mask, weight, scaled, arguments, need_whole, need_weight);
        if (need_whole && upsample)
            check(upcat_part(call, of_whole.const_data_ptr(), call.dx, call.dskip, guard.stream), g);
        else if (need_whole)
            dx = of_whole;
    }
    if (is_joined) {
        const Tensor whole = dx;
        dx = need_input ? channels_of(whole, input, 0) : no_gradient(input);
        if (need_skip) dskip = channels_of(whole, *skip, input.size(1));
    } else if (upsample) {  // each gradient in its own input's layout
        if (need_input) dx = laid_out(dx, layout_of(input));
        if (need_skip) dskip = laid_out(dskip, layout_of(*skip));
    }
    return {dx, dskip, dw, db};
}

Tensor phases(Tensor weight, int64_t low_channels) {
    check_phase_arguments(weight, low_channels);
    if (device_of(weight).arch < 80) return unfused<Tensor>("pconv_cuda::unfused_upcat_phases", weight, low_channels);
    const CudaCallGuard guard(weight);
    const int64_t filters = weight.size(0);
    Tensor result = empty_in(Layout::nhwc, weight, {4 * filters, low_channels, 2, 2});
    Geometry g{};  // for the error's words
    g.c = weight.size(1), g.k = filters, g.r = g.s = 3, g.groups = 1;
    check(
        upcat_phases(
            dtype_of(weight, "weight"), filters, low_channels, low_channels, weight.const_data_ptr(),
            strides_of(weight), result.mutable_data_ptr(), guard.stream),
        g);
    return result;
}

}  // namespace

void set_tf32_reader(Tf32Reader reader) { tf32_reader = reader; }
void set_wgmma(int choice) { wgmma_choice = choice; }
void set_family_checker(FamilyChecker checker) { family_checker = checker; }
void set_benchmark_reader(BenchmarkReader reader) { benchmark_reader = reader; }
void force_path(int choice) { forced_choice = choice; }
std::map<std::string, int> measured_choices() {
    const std::lock_guard<std::mutex> lock(choices_lock);
    return choices;
}
void set_choices(const std::map<std::string, int>& known) {
    const std::lock_guard<std::mutex> lock(choices_lock);
    choices = known;
}
unsigned last_families() { return families_used; }

}  // namespace pconv::cuda

#ifdef PCONV_EMULATE

STABLE_TORCH_LIBRARY(pconv_emulated, m) {
    m.def("partial_conv2d" PCONV_FORWARD_SCHEMA);
    m.def("partial_conv2d_backward" PCONV_BACKWARD_SCHEMA);
    m.def("upcat_phases" PCONV_UPCAT_PHASES_SCHEMA);
}

// For ctypes: the tests choose the device that is pretended, and answer for torch's setting.
extern "C" void pconv_emulated_device(int arch, int multiprocessors, int wgmma, int64_t max_elements) {
    pconv::cuda::Device& device = pconv::cuda::emulated_device;
    device.arch = arch, device.multiprocessors = multiprocessors, device.wgmma = wgmma != 0;
    device.shared_bytes = 227 << 10, device.max_elements = max_elements;
}
extern "C" void pconv_emulated_flops_per_byte(int64_t count) { pconv::cuda::emulated_device.flops_per_byte = count; }
extern "C" void pconv_emulated_family_checker(pconv::cuda::FamilyChecker checker) {
    pconv::cuda::set_family_checker(checker);
    for (auto& state : pconv::cuda::checked_families) state = 0;
}
extern "C" void pconv_emulated_benchmark(pconv::cuda::BenchmarkReader reader, double (*clock)(int choice)) {
    pconv::cuda::set_benchmark_reader(reader);
    pconv::cuda::emulated_clock = clock;
}
extern "C" int pconv_emulated_choices(bool clear) {
    const int count = int(pconv::cuda::measured_choices().size());
    if (clear) pconv::cuda::set_choices({});
    return count;
}
extern "C" void pconv_emulated_force_path(int choice) { pconv::cuda::force_path(choice); }
extern "C" unsigned pconv_emulated_last_families() { return pconv::cuda::last_families(); }
extern "C" void pconv_emulated_tf32_reader(int (*reader)()) { pconv::cuda::set_tf32_reader(reader); }

STABLE_TORCH_LIBRARY_IMPL(pconv_emulated, CPU, m) {
#else
STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CUDA, m) {
#endif
    m.impl("partial_conv2d", TORCH_BOX(&pconv::cuda::forward));
    m.impl("partial_conv2d_backward", TORCH_BOX(&pconv::cuda::backward));
    m.impl("upcat_phases", TORCH_BOX(&pconv::cuda::phases));
}
