// Element types on the device: what each is computed in, how it is read and written, and the choice by DType.
#pragma once

#include "launch.cuh"
#include "problem.h"
#include "ptx/sm80.cuh"

#include <cstdint>

namespace pconv::cuda {

// Sums and products are made in the Accumulator; ratios are stored in it too.
template <class T>
struct Value;
template <>
struct Value<double> {
    using Accumulator = double;
    PCONV_DEV static double load(double value) { return value; }
    PCONV_DEV static double store(double value) { return value; }
};
template <>
struct Value<float> {
    using Accumulator = float;
    PCONV_DEV static float load(float value) { return value; }
    PCONV_DEV static float store(float value) { return value; }
};
template <>
struct Value<__nv_bfloat16> {
    using Accumulator = float;
    PCONV_DEV static float load(__nv_bfloat16 value) { return __bfloat162float(value); }
    PCONV_DEV static __nv_bfloat16 store(float value) { return __float2bfloat16(value); }
};
template <>
struct Value<__half> {
    using Accumulator = float;
    PCONV_DEV static float load(__half value) { return __half2float(value); }
    PCONV_DEV static __half store(float value) { return __float2half(value); }
};
template <>
struct Value<uint8_t> {  // masks alone; bool is stored as this
    using Accumulator = float;
    PCONV_DEV static float load(uint8_t value) { return float(value); }
};

template <class T>
using accumulator_t = typename Value<T>::Accumulator;

// The activation behind an epilogue, negative_slope 1: none. NaN stays NaN, and negative_slope 0 has no 0 * -Inf.
template <class T>
PCONV_DEV T activated(T value, T negative_slope) {
    return value < 0 ? (negative_slope == 0 ? T(0) : negative_slope * value) : value;
}

template <class T>
struct Type {
    using type = T;
};

// body(Type<T>{}) for the types that the tensor cores' partial sums may end in. Doubles have no such kernels.
template <class Body>
Status by_fast_type(DType dtype, const char* name, const Body& body) {
    switch (dtype) {
        case DType::f32: return body(Type<float>{});
        case DType::bf16: return body(Type<__nv_bfloat16>{});
        case DType::f16: return body(Type<__half>{});
        default: return Status{cudaErrorInvalidValue, name};
    }
}

template <class Body>
Status by_type(DType dtype, const char* name, const Body& body) {
    return dtype == DType::f64 ? body(Type<double>{}) : by_fast_type(dtype, name, body);
}

// Kernels that only move data are compiled by size, not by type: no conversion can slip in. Doubles are never packed.
template <class Body>
Status by_element_size(DType dtype, const char* name, const Body& body) {
    switch (bytes_of(dtype)) {
        case 2: return body(Type<uint16_t>{});
        case 4: return body(Type<uint32_t>{});
        default: return Status{cudaErrorInvalidValue, name};
    }
}

}  // namespace pconv::cuda
