// Buffers of exactly their size, on the host where kernels are emulated (AddressSanitizer then sees the first byte
// outside) and on the device otherwise. Values are numbers, stored by dtype.
#pragma once

#include "cpu/numeric.h"
#include "cuda/host/run.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace pconv::test {

// The numbers of multiprocessors that drivers try: one is filled by the largest tiles, forty want small ones. On wgmma
// more of them, for its tiles.
inline std::vector<int> multiprocessors_for(const cuda::Device& device) {
    return device.wgmma ? std::vector<int>{1, 2, 3, 4, 5, 6, 40} : std::vector<int>{1, 40};
}

// Every tile of wgmma has its turn, whatever the plan would take: one for each of the smaller devices (of few columns a
// narrower one), the plan's own on the largest.
inline void want_tiles(cuda::Device& device) {
    using cuda::TileId;
    constexpr TileId tiles[] = {TileId::wgmma_128x256, TileId::wgmma_128x128, TileId::wgmma_192x256,
                                TileId::wgmma_256x128, TileId::wgmma_256x64,  TileId::wgmma_64x256};
    const int number = device.multiprocessors - 1;
    device.wanted.fill(number < 6 ? static_cast<signed char>(tiles[number]) : -1);
}

inline double load_number(DType dtype, const uint8_t* at) {
    switch (dtype) {
        case DType::f64: return *reinterpret_cast<const double*>(at);
        case DType::f32: return *reinterpret_cast<const float*>(at);
        case DType::bf16: return cpu::load(*reinterpret_cast<const cpu::BFloat16*>(at));
        case DType::f16: return cpu::load(*reinterpret_cast<const cpu::Half*>(at));
        case DType::u8: return *at;
    }
    return 0;
}

inline void store_number(DType dtype, uint8_t* at, double value) {
    switch (dtype) {
        case DType::f64: *reinterpret_cast<double*>(at) = value; break;
        case DType::f32: *reinterpret_cast<float*>(at) = float(value); break;
        case DType::bf16: cpu::store(*reinterpret_cast<cpu::BFloat16*>(at), float(value)); break;
        case DType::f16: cpu::store(*reinterpret_cast<cpu::Half*>(at), float(value)); break;
        case DType::u8: *at = uint8_t(value); break;
    }
}

inline void device_check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    std::printf("FAILED: %s: %s\n", what, cudaGetErrorString(error));
    std::exit(1);
}

// Filled with 0xFF: what a kernel forgets to write is NaN, or 255 in a mask.
class Buffer {
  public:
    Buffer(DType type, int64_t elements) : dtype_(type), bytes_(size_t(elements) * bytes_of(type)) {
        if (bytes_ == 0) return;
#ifdef PCONV_EMULATE
        if (posix_memalign(&memory_, 256, bytes_) != 0) std::abort();
        std::memset(memory_, 0xff, bytes_);
#else
        device_check(cudaMalloc(&memory_, bytes_), "cudaMalloc");
        device_check(cudaMemset(memory_, 0xff, bytes_), "cudaMemset");
#endif
    }
    Buffer(DType type, const std::vector<double>& values) : Buffer(type, int64_t(values.size())) {
        const int64_t size = bytes_of(dtype_);
        std::vector<uint8_t> host(bytes_);
        for (size_t i = 0; i < values.size(); ++i) store_number(dtype_, host.data() + i * size, values[i]);
        upload(host);
    }
    Buffer(const Buffer&) = delete;
    ~Buffer() {
#ifdef PCONV_EMULATE
        std::free(memory_);
#else
        if (memory_) cudaFree(memory_);
#endif
    }
    void* data() const { return memory_; }

    std::vector<uint8_t> raw() const {
        std::vector<uint8_t> host(bytes_);
        if (bytes_ == 0) return host;
#ifdef PCONV_EMULATE
        std::memcpy(host.data(), memory_, bytes_);
#else
        device_check(cudaMemcpy(host.data(), memory_, bytes_, cudaMemcpyDeviceToHost), "a kernel");
#endif
        return host;
    }
    std::vector<double> values() const {
        const std::vector<uint8_t> host = raw();
        const size_t size = size_t(bytes_of(dtype_));
        std::vector<double> result(host.size() / size);
        for (size_t i = 0; i < result.size(); ++i) result[i] = load_number(dtype_, host.data() + i * size);
        return result;
    }

  private:
    void upload(const std::vector<uint8_t>& host) {
        if (bytes_ == 0) return;
#ifdef PCONV_EMULATE
        std::memcpy(memory_, host.data(), bytes_);
#else
        device_check(cudaMemcpy(memory_, host.data(), bytes_, cudaMemcpyHostToDevice), "cudaMemcpy");
#endif
    }
    DType dtype_;
    size_t bytes_;
    void* memory_ = nullptr;
};

}  // namespace pconv::test
