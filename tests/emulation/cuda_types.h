// CUDA's vocabulary for g++, types only: vectors, dim3, error codes, the two 16-bit floats.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#define EMU_VECTOR2(name, scalar, alignment) \
    struct alignas(alignment) name {         \
        scalar x, y;                         \
    };                                       \
    inline name make_##name(scalar x, scalar y) { return {x, y}; }
#define EMU_VECTOR4(name, scalar, alignment) \
    struct alignas(alignment) name {         \
        scalar x, y, z, w;                   \
    };                                       \
    inline name make_##name(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }
EMU_VECTOR2(int2, int, 8)
EMU_VECTOR2(uint2, unsigned, 8)
EMU_VECTOR2(float2, float, 8)
EMU_VECTOR2(double2, double, 16)
EMU_VECTOR2(longlong2, long long, 16)
EMU_VECTOR4(int4, int, 16)
EMU_VECTOR4(uint4, unsigned, 16)
EMU_VECTOR4(float4, float, 16)
EMU_VECTOR4(uchar4, unsigned char, 4)
EMU_VECTOR4(ushort4, unsigned short, 8)
#undef EMU_VECTOR2
#undef EMU_VECTOR4

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// ---- the little of the runtime API that launchers may use; every stream is the same and already in step

using cudaStream_t = void*;
enum cudaError_t {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorNotSupported = 801,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInvalidConfiguration = 9,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };

inline const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorInvalidValue: return "invalid argument";
        case cudaErrorNotSupported: return "operation not supported";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    }
    return "unrecognized error code";
}
inline cudaError_t cudaMemsetAsync(void* pointer, int byte, size_t bytes, cudaStream_t = nullptr) {
    if (bytes) std::memset(pointer, byte, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(
    void* destination, const void* source, size_t bytes, cudaMemcpyKind, cudaStream_t = nullptr) {
    if (bytes) std::memcpy(destination, source, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
// At exact size, so that AddressSanitizer sees the first byte outside; aligned as a device aligns.
template <class T>
cudaError_t cudaMallocManaged(T** pointer, size_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 256, bytes)) return cudaErrorMemoryAllocation;
    *pointer = static_cast<T*>(memory);
    return cudaSuccess;
}
inline cudaError_t cudaFree(void* pointer) {
    std::free(pointer);
    return cudaSuccess;
}

// ---- 16-bit floats

namespace emu {

template <class To, class From>
To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From), "a change of type, not of size");
    To result;
    std::memcpy(static_cast<void*>(&result), &value, sizeof result);
    return result;
}

// Rounds once, to nearest even, whatever it comes from: through double, which holds every float exactly.
// Written with ldexp and nearbyint rather than shifts, so that it can be read.
inline uint16_t encode_float16(double value, int mantissa_bits, int bias) {
    const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const uint16_t infinity = uint16_t(0x7fff >> mantissa_bits << mantissa_bits);
    if (std::isnan(value)) return 0x7fff;  // the one NaN that the hardware's conversions give
    const double magnitude = std::fabs(value);
    if (magnitude == 0) return sign;
    if (std::isinf(value)) return sign | infinity;
    int exponent = std::ilogb(magnitude);
    if (exponent < 1 - bias) exponent = 1 - bias;  // subnormal: the quantum stops shrinking
    // In units of the last place. The biased exponent above it is a plain sum: a carry out of the mantissa is right.
    const double units = std::nearbyint(std::ldexp(magnitude, mantissa_bits - exponent));
    const double code = std::ldexp(double(exponent + bias - 1), mantissa_bits) + units;
    return sign | (code >= infinity ? infinity : uint16_t(code));
}

inline float decode_float16(uint16_t code, int mantissa_bits, int bias) {
    const int exponent = (code & 0x7fff) >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);
    float magnitude;
    if (exponent == 0x7fff >> mantissa_bits)
        magnitude = mantissa ? NAN : INFINITY;
    else if (exponent == 0)
        magnitude = std::ldexp(float(mantissa), 1 - bias - mantissa_bits);
    else
        magnitude = std::ldexp(float(mantissa + (1 << mantissa_bits)), exponent - bias - mantissa_bits);
    return code & 0x8000 ? -magnitude : magnitude;
}

}  // namespace emu

class __nv_bfloat16 {
    uint16_t code_;

  public:
    __nv_bfloat16() = default;
    __nv_bfloat16(float value) : code_(emu::encode_float16(value, 7, 127)) {}
    __nv_bfloat16(double value) : code_(emu::encode_float16(value, 7, 127)) {}
    __nv_bfloat16(int value) : code_(emu::encode_float16(value, 7, 127)) {}
    operator float() const { return emu::bits_as<float>(uint32_t(code_) << 16); }
};

class __half {
    uint16_t code_;

  public:
    __half() = default;
    __half(float value) : code_(emu::encode_float16(value, 10, 15)) {}
    __half(double value) : code_(emu::encode_float16(value, 10, 15)) {}
    __half(int value) : code_(emu::encode_float16(value, 10, 15)) {}
    operator float() const { return emu::decode_float16(code_, 10, 15); }
};
using half = __half;

static_assert(sizeof(__nv_bfloat16) == 2 && sizeof(__half) == 2, "the storage of a device");

inline float __bfloat162float(__nv_bfloat16 value) { return value; }
inline float __half2float(__half value) { return value; }
inline __nv_bfloat16 __float2bfloat16(float value) { return value; }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return value; }
inline __nv_bfloat16 __double2bfloat16(double value) { return value; }
inline __half __float2half(float value) { return value; }
inline __half __float2half_rn(float value) { return value; }
inline __half __double2half(double value) { return value; }
struct alignas(4) __nv_bfloat162 {
    __nv_bfloat16 x, y;
};
struct alignas(4) __half2 {
    __half x, y;
};
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return {low, high}; }
inline __half2 __floats2half2_rn(float low, float high) { return {low, high}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value) { return emu::bits_as<uint16_t>(value); }
inline unsigned short __half_as_ushort(__half value) { return emu::bits_as<uint16_t>(value); }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short code) { return emu::bits_as<__nv_bfloat16>(code); }
inline __half __ushort_as_half(unsigned short code) { return emu::bits_as<__half>(code); }
