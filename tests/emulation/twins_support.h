// What both programs of twins share: memory on both sides, fixed data, a line of output.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cuda/status.h"

inline bool went_well(const char* what, cudaError_t error) {
    if (error != cudaSuccess) std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    return error == cudaSuccess;
}

// Elements on the host, in `host`, and a copy of them on the device. Where kernels are emulated the two are one.
template <class T>
struct Shared {
    T* host = nullptr;
    T* device = nullptr;
    size_t bytes;

    explicit Shared(size_t count) : bytes(count * sizeof(T)) {
        host = static_cast<T*>(std::calloc(count, sizeof(T)));
#ifdef PCONV_EMULATE
        device = host;
#else
        if (!host || !went_well("memory", cudaMalloc(&device, bytes))) std::exit(1);
#endif
    }
    Shared(Shared&& other) : host(other.host), device(other.device), bytes(other.bytes) {
        other.host = other.device = nullptr;
    }
    Shared(const Shared&) = delete;
    ~Shared() {
#ifndef PCONV_EMULATE
        cudaFree(device);
#endif
        std::free(host);
    }
    T& operator[](size_t i) { return host[i]; }

    T* to_device() const {
#ifndef PCONV_EMULATE
        if (!went_well("to the device", cudaMemcpy(device, host, bytes, cudaMemcpyHostToDevice))) std::exit(1);
#endif
        return device;
    }
    // Waits for the kernel.
    bool to_host(const char* wrapper, const pconv::cuda::Status& status) const {
        if (!went_well(wrapper, status.ok() ? cudaDeviceSynchronize() : status.error)) return false;
#ifdef PCONV_EMULATE
        return true;
#else
        return went_well(wrapper, cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
#endif
    }
};

inline uint32_t scramble(uint32_t i) {  // a fixed bijection of 32-bit words
    i = (i ^ i >> 16) * 0x7feb352du;
    i = (i ^ i >> 15) * 0x846ca68bu;
    return i ^ i >> 16;
}

// One line: `count` words of 32 bits.
inline void print_words(const char* wrapper, const void* words, int count) {
    std::printf("{\"wrapper\": \"%s\", \"bits\": [", wrapper);
    for (int i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, static_cast<const uint8_t*>(words) + 4 * i, 4);
        std::printf("%s\"%08x\"", i ? ", " : "", bits);
    }
    std::printf("]}\n");
}

// Waits for the kernel and prints all that it wrote.
template <class T>
bool report(const char* wrapper, const pconv::cuda::Status& status, const Shared<T>& written) {
    if (!written.to_host(wrapper, status)) return false;
    print_words(wrapper, written.host, int(written.bytes / 4));
    return true;
}
