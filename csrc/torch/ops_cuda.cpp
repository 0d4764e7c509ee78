// The operators' CUDA kernels: tensors are checked and allocated here, csrc/kernels does the rest on the current
// stream. Nothing synchronises, and all memory comes from torch's allocator, so a CUDA graph may capture it.
//
// With PCONV_EMULATE the same file is a library of CPU operators around the emulated kernels (tests/emulation): the
// glue is tested where there is no device.
#include "ops_cuda.h"
#include "checks.h"
#include "schemas.h"

#include "../kernels/run.h"

#include <torch/csrc/stable/library.h>
#ifndef PCONV_EMULATE
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#endif

#include <array>
#include <mutex>
#include <tuple>

namespace pconv::cuda {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

Tf32Reader tf32_reader = nullptr;

#ifdef PCONV_EMULATE
Device emulated_device;
#endif

// What a call needs of its device; made once for each device, for attributes are slow to ask for.
Device device_of(const Tensor& tensor) {
#ifdef PCONV_EMULATE
    (void)tensor;
    return emulated_device;
#else
    constexpr int most = 64;
    static std::array<Device, most> known{};
    static std::array<std::once_flag, most> asked;
    const int index = tensor.get_device_index();
    STD_TORCH_CHECK(index >= 0 && index < most, "input: device index ", index, " is not supported");
    std::call_once(asked[index], [&] {
        int major = 0, minor = 0, count = 0, shared = 0;
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index);
        cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
        const char* wgmma = std::getenv("PCONV_WGMMA");
        known[index].arch = 10 * major + minor;
        known[index].multiprocessors = count > 0 ? count : 1;
        known[index].shared_bytes = shared;
        known[index].wgmma = wgmma && std::strcmp(wgmma, "1") == 0 && major == 9;
    });
    return known[index];
#endif
}

// The device guard and the stream of one call.
struct Place {
#ifdef PCONV_EMULATE
    explicit Place(const Tensor&) {}
    cudaStream_t stream{};
#else
    explicit Place(const Tensor& tensor) : guard(tensor.get_device_index()) {
        void* current = nullptr;
        PCONV_TORCH_CALL(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
        stream = static_cast<cudaStream_t>(current);
    }
    torch::stable::accelerator::DeviceGuard guard;
    cudaStream_t stream{};
#endif
};

void check(const Status& status, const Geometry& g) {
    STD_TORCH_CHECK(
        status.ok(), "pconv_cuda: launching ", status.kernel, " failed: ", cudaGetErrorString(status.error), " (input ",
        g.n, "x", g.c, "x", g.h, "x", g.w, ", weight ", g.k, "x", g.c / g.groups, "x", g.r, "x", g.s, ", stride ",
        g.stride_h, "x", g.stride_w, ", padding ", g.pad_h, "x", g.pad_w, ", dilation ", g.dil_h, "x", g.dil_w,
        ", groups ", g.groups, ")");
}

// fp32 alone depends on the setting; the question costs a call into Python.
bool allows_tf32(const Geometry& g, int64_t fp32) {
    if (g.dtype != DType::f32) return false;
    if (fp32 >= 0) return fp32 == 1;
    return tf32_reader && tf32_reader() == 1;
}

void check_binary(const Geometry& g, const Tensor& mask, DType dtype, const Place& place) {
    Tensor odd = empty_of(mask, {8}, ScalarType::Byte);
    auto* const counter = static_cast<unsigned long long*>(odd.mutable_data_ptr());
    const auto sizes = mask.sizes(), strides = mask.strides();
    check(count_not_binary(mask.const_data_ptr(), dtype, sizes.data(), strides.data(), counter, place.stream), g);
    unsigned long long found = 0;
#ifdef PCONV_EMULATE
    found = *counter;
#else
    const cudaError_t copied = cudaMemcpyAsync(&found, counter, sizeof found, cudaMemcpyDeviceToHost, place.stream);
    check({copied == cudaSuccess ? cudaStreamSynchronize(place.stream) : copied, "count_not_binary"}, g);
#endif
    STD_TORCH_CHECK(found == 0, "mask: expected zeros and ones (PCONV_CHECK=1), got ", found, " other values");
}

// Masks as bytes, without a copy where they are bytes already.
MaskBytes mask_bytes(
    const Geometry& g, const Tensor& input, const MaybeTensor& mask, const Ints& mask_channels, const Place& place) {
    MaskBytes result;
    if (!mask) return result;
    const Tensor& given = *mask;
    result.first = mask_blocks(g, input, given, mask_channels);
    const DType dtype = dtype_of(given, "mask");
    if (wants_binary_check()) check_binary(g, given, dtype, place);
    result.owner = given;
    if (dtype != DType::u8 || !given.is_contiguous()) {
        const auto sizes = given.sizes(), strides = given.strides();
        result.owner = empty_of(given, Ints(sizes.begin(), sizes.end()), ScalarType::Byte);
        auto* const bytes = static_cast<uint8_t*>(result.owner->mutable_data_ptr());
        check(mask_to_bytes(given.const_data_ptr(), dtype, sizes.data(), strides.data(), bytes, place.stream), g);
    }
    const auto* bytes = static_cast<const uint8_t*>(result.owner->const_data_ptr());
    result.mask = Mask{bytes, given.size(0), given.size(1), result.first.data(), g.h * g.w};
    return result;
}

Strides strides_of(const Tensor& tensor) {
    const auto strides = tensor.strides();
    return {{strides[0], strides[1], strides[2], strides[3]}};
}

void* data_or_null(const Tensor& tensor) { return tensor.numel() > 0 ? tensor.mutable_data_ptr() : nullptr; }

Outputs forward(
    Tensor input, MaybeTensor mask, Ints mask_channels, Tensor weight, MaybeTensor bias, Ints stride, Ints padding,
    Ints dilation, int64_t groups, int64_t fp32, double slope) {
    const Geometry g = geometry_of(input, weight, stride, padding, dilation, groups);
    check_bias(g, input, bias);
    const Place place(input);
    const Device device = device_of(input);
    if (device.arch < 80)
        return unfused_forward(input, mask, mask_channels, weight, bias, stride, padding, dilation, groups, slope);
    const MaskBytes bytes = mask_bytes(g, input, mask, mask_channels, place);
    const Ints compact = ratio_size(g, bytes, mask_channels);
    Tensor alive = empty_of(input, compact, ScalarType::Bool);
    Tensor ratios = empty_of(input, compact, g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float);
    Tensor y = empty_in(g.layout, input, {g.n, g.k, g.p, g.q});
    const Tensor x = laid_out(input, g.layout);
    const MaybeTensor dense_bias = bias ? MaybeTensor(torch::stable::contiguous(*bias)) : std::nullopt;

    Forward call{};
    call.geometry = g;
    call.mask = bytes.mask;
    call.tf32 = allows_tf32(g, fp32);
    call.x = x.const_data_ptr();
    call.weight = weight.const_data_ptr();
    call.weight_strides = strides_of(weight);
    call.bias = dense_bias ? dense_bias->const_data_ptr() : nullptr;
    call.ratio = ratios.mutable_data_ptr();
    call.alive = static_cast<uint8_t*>(alive.mutable_data_ptr());
    call.ratio_n = compact[0], call.ratio_groups = compact[1];
    call.y = y.mutable_data_ptr();
    Tensor workspace = empty_of(input, {forward_workspace(call, device)}, ScalarType::Byte);
    check(run_forward(call, device, data_or_null(workspace), place.stream), g);
    return {y, alive, ratios};
}

Outputs backward(
    Tensor grad, Tensor input, MaybeTensor mask, Ints mask_channels, Tensor weight, Tensor ratios, Ints stride,
    Ints padding, Ints dilation, int64_t groups, bool need_input, bool need_weight, bool need_bias, int64_t fp32) {
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
    call.tf32 = allows_tf32(g, fp32);
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
extern "C" void pconv_emulated_tf32_reader(int (*reader)()) { pconv::cuda::set_tf32_reader(reader); }

#else

STABLE_TORCH_LIBRARY_IMPL(pconv_cuda, CUDA, m) {
    m.impl("partial_conv2d", TORCH_BOX(&pconv::cuda::forward));
    m.impl("partial_conv2d_backward", TORCH_BOX(&pconv::cuda::backward));
}

#endif
