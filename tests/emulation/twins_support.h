// What both programs of twins share: memory that host and device see, fixed data, a line of output.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "kernels/status.h"

inline bool went_well(const char* what, cudaError_t error) {
    if (error != cudaSuccess) std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    return error == cudaSuccess;
}

template <class T>
struct Managed {
    T* data = nullptr;

    explicit Managed(size_t count) {
        if (!went_well("memory", cudaMallocManaged(&data, count * sizeof(T)))) std::exit(1);
        std::memset(static_cast<void*>(data), 0, count * sizeof(T));
    }
    Managed(Managed&& other) : data(other.data) { other.data = nullptr; }
    Managed(const Managed&) = delete;
    ~Managed() { cudaFree(data); }
    T& operator[](size_t i) { return data[i]; }
};

inline uint32_t scramble(uint32_t i) {  // a fixed bijection of 32-bit words
    i = (i ^ i >> 16) * 0x7feb352du;
    i = (i ^ i >> 15) * 0x846ca68bu;
    return i ^ i >> 16;
}

// Waits for the kernel and prints `count` words of what it wrote.
template <class Word>
bool report(const char* wrapper, const pconv::cuda::Status& status, const Word* words, int count) {
    static_assert(sizeof(Word) == 4, "words of 32 bits");
    if (!went_well(wrapper, status.ok() ? cudaDeviceSynchronize() : status.error)) return false;
    std::printf("{\"wrapper\": \"%s\", \"bits\": [", wrapper);
    for (int i = 0; i < count; ++i) {
        uint32_t bits;
        std::memcpy(&bits, &words[i], 4);
        std::printf("%s\"%08x\"", i ? ", " : "", bits);
    }
    std::printf("]}\n");
    return true;
}
