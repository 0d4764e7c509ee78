// What the CUDA operators share (ops_cuda*.cpp): a call's device and stream, its errors, its masks.
#pragma once

#include "composed.h"
#include "ops_cuda.h"

#include "../cuda/host/run.h"

#ifndef PCONV_EMULATE
#include <cuda_runtime_api.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#endif

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace pconv::cuda {

inline Tf32Reader tf32_reader = nullptr;
inline std::atomic<int> wgmma_choice{-1};

#ifdef PCONV_EMULATE
inline Device emulated_device;
#endif

// Whether sm_90 takes its wgmma kernels: set_wgmma()'s choice, else not where the environment has PCONV_WGMMA=0. A
// build without 9.0a has them as empty bodies, which must not be launched.
inline bool wgmma_wanted() {
#if !defined(PCONV_EMULATE) && !defined(PCONV_BUILT_FOR_SM90A)
    return false;
#else
    const int choice = wgmma_choice.load(std::memory_order_relaxed);
    if (choice >= 0) return choice == 1;
    static const char* const given = std::getenv("PCONV_WGMMA");
    return !given || std::strcmp(given, "0") != 0;
#endif
}

// What a call needs of its device; attributes are slow to ask for and are kept.
inline Device device_of(const Tensor& tensor) {
#ifdef PCONV_EMULATE
    (void)tensor;
    return emulated_device;
#else
    constexpr int most = 64;
    static std::array<Device, most> known{};
    static std::array<std::once_flag, most> asked;
    const int index = tensor.get_device_index();
    PCONV_EXPECT(index >= 0 && index < most, "input: device index ", index, " is not supported");
    std::call_once(asked[index], [&] {
        int major = 0, minor = 0, count = 0, shared = 0, all_shared = 0;
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index);
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, index);
        cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
        known[index].arch = 10 * major + minor;
        known[index].multiprocessors = count > 0 ? count : 1;
        known[index].shared_bytes = shared;
        cudaDeviceGetAttribute(&all_shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, index);
        known[index].shared_per_multiprocessor = all_shared;
    });
    Device device = known[index];
    device.wgmma = wgmma_wanted() && device.arch == 90;
    return device;
#endif
}

// The device guard and the stream of one call.
struct CudaCallGuard {
#ifdef PCONV_EMULATE
    explicit CudaCallGuard(const Tensor&) {}
    cudaStream_t stream{};
#else
    explicit CudaCallGuard(const Tensor& tensor) : guard(tensor.get_device_index()) {
        void* current = nullptr;
        PCONV_TORCH_CALL(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
        stream = static_cast<cudaStream_t>(current);
    }
    torch::stable::accelerator::DeviceGuard guard;
    cudaStream_t stream{};
#endif
};

inline void check(const Status& status, const Geometry& g) {
    PCONV_EXPECT(
        status.ok(), "pconv_cuda: launching ", status.kernel, " failed: ", cudaGetErrorString(status.error), " (input ",
        g.n, "x", g.c, "x", g.h, "x", g.w, ", weight ", g.k, "x", g.c / g.groups, "x", g.r, "x", g.s, ", stride ",
        g.stride_h, "x", g.stride_w, ", padding ", g.pad_h, "x", g.pad_w, ", dilation ", g.dil_h, "x", g.dil_w,
        ", groups ", g.groups, ")");
}

// fp32 alone depends on the setting; the question costs a call into Python.
inline bool allows_tf32(const Geometry& g, int64_t allow_tf32) {
    if (g.dtype != DType::f32) return false;
    if (allow_tf32 >= 0) return allow_tf32 == 1;
    return tf32_reader && tf32_reader() == 1;
}

inline void check_binary(
    const Geometry& g, const Tensor& mask, const char* name, DType dtype, const int64_t sizes[4],
    const int64_t strides[4], const CudaCallGuard& guard) {
    Tensor odd = empty_of(mask, {8}, ScalarType::Byte);
    auto* const counter = static_cast<unsigned long long*>(odd.mutable_data_ptr());
    check(count_not_binary(mask.const_data_ptr(), dtype, sizes, strides, counter, guard.stream), g);
    unsigned long long found = 0;
#ifdef PCONV_EMULATE
    found = *counter;
#else
    const cudaError_t copied = cudaMemcpyAsync(&found, counter, sizeof found, cudaMemcpyDeviceToHost, guard.stream);
    check({copied == cudaSuccess ? cudaStreamSynchronize(guard.stream) : copied, "count_not_binary"}, g);
#endif
    PCONV_EXPECT(found == 0, name, ": expected zeros and ones (PCONV_CHECK=1), got ", found, " other values");
}

// A mask's bytes, without a copy where they are bytes already; `result` owns them.
inline void read_mask(
    MaskBytes& result, const Geometry& g, const Tensor& given, const char* name, const CudaCallGuard& guard) {
    const DType dtype = dtype_of(given, name);
    if (wants_binary_check()) check_binary(g, given, name, dtype, given.sizes().data(), given.strides().data(), guard);
    result.owner = given;
    if (dtype != DType::u8 || !given.is_contiguous()) {
        const auto sizes = given.sizes(), strides = given.strides();
        result.owner = empty_of(given, Ints(sizes.begin(), sizes.end()), ScalarType::Byte);
        auto* const bytes = static_cast<uint8_t*>(result.owner->mutable_data_ptr());
        check(mask_to_bytes(given.const_data_ptr(), dtype, sizes.data(), strides.data(), bytes, guard.stream), g);
    }
    result.set_bytes();
    result.holes = true;  // for all that is known without waiting for the device
}

// The passes around a convolution.
struct CudaPasses {
    static constexpr bool in_parts = false;
    const CudaCallGuard& guard;

    Tensor masked_copy(const Geometry& g, const Mask& mask, const Tensor& x) const {
        Tensor out = torch::stable::empty_like(x);
        check(cuda::masked_copy({g, mask, x.const_data_ptr(), out.mutable_data_ptr()}, guard.stream), g);
        return out;
    }
    void clear_holes(const Geometry& g, const Mask& mask, Tensor& x) const {
        check(cuda::masked_copy({g, mask, x.const_data_ptr(), x.mutable_data_ptr()}, guard.stream), g);
    }
    void renormalise(const Geometry& g, const Ratio& ratio, const void* bias, double negative_slope, Tensor& y) const {
        const Renormalise call{g, ratio.values, ratio.n, ratio.groups, bias, negative_slope, y.mutable_data_ptr()};
        check(cuda::renormalise(call, guard.stream), g);
    }
};

inline Strides strides_of(const Tensor& tensor) {
    const auto strides = tensor.strides();
    return {{strides[0], strides[1], strides[2], strides[3]}};
}

inline void* data_or_null(const Tensor& tensor) { return tensor.numel() > 0 ? tensor.mutable_data_ptr() : nullptr; }

}  // namespace pconv::cuda
