// What kernel sources see in place of the CUDA headers: qualifiers, built-in variables, intrinsics.
#pragma once

#include "cuda_types.h"
#include "runtime.h"

// Out of line and never merged with another: nm then lists every instantiation, and its address is its own.
#define __global__ __attribute__((noinline, noclone))
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)
#define __shared__ _Pragma("GCC error \"shared memory comes from PCONV_DYN_SMEM only\"")

#define threadIdx (emu::current->index)
#define blockIdx (emu::current->block)
#define blockDim (emu::current->block_size)
#define gridDim (emu::current->grid_size)
#define warpSize 32

// ---- barriers

inline void __syncthreads(EMU_SITE) { emu::block_barrier(0, 0, 0, emu::Reduction::none, EMU_HERE("__syncthreads")); }
inline int __syncthreads_count(int predicate, EMU_SITE) {
    return emu::block_barrier(0, 0, predicate, emu::Reduction::count, EMU_HERE("__syncthreads_count"));
}
inline int __syncthreads_or(int predicate, EMU_SITE) {
    return emu::block_barrier(0, 0, predicate, emu::Reduction::any, EMU_HERE("__syncthreads_or"));
}
inline int __syncthreads_and(int predicate, EMU_SITE) {
    return emu::block_barrier(0, 0, predicate, emu::Reduction::all, EMU_HERE("__syncthreads_and"));
}
inline void __syncwarp(uint32_t mask = ~0u, EMU_SITE) {
    emu::warp_collective(emu::warp_barrier, mask, nullptr, EMU_HERE("__syncwarp"));
}

// ---- shuffles and votes

namespace emu {
template <class T>
T shuffle(uint32_t mask, T value, ShuffleKind kind, int operand, int width, const Site& site) {
    static_assert(sizeof(T) <= 8, "shuffles move up to 8 bytes");
    ShuffleArguments arguments{0, 0, kind, operand, width};
    std::memcpy(&arguments.value, &value, sizeof value);
    warp_collective(warp_shuffle, mask, &arguments, site);
    std::memcpy(&value, &arguments.result, sizeof value);
    return value;
}
inline uint32_t ballot(uint32_t mask, int predicate, const Site& site) {
    VoteArguments arguments{predicate != 0, 0};
    warp_collective(warp_vote, mask, &arguments, site);
    return arguments.ballot;
}
}  // namespace emu

template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, int width = 32, EMU_SITE) {
    return emu::shuffle(mask, value, emu::ShuffleKind::index, lane, width, EMU_HERE("__shfl_sync"));
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int delta, int width = 32, EMU_SITE) {
    return emu::shuffle(mask, value, emu::ShuffleKind::up, delta, width, EMU_HERE("__shfl_up_sync"));
}
template <class T>
T __shfl_down_sync(uint32_t mask, T value, int delta, int width = 32, EMU_SITE) {
    return emu::shuffle(mask, value, emu::ShuffleKind::down, delta, width, EMU_HERE("__shfl_down_sync"));
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32, EMU_SITE) {
    return emu::shuffle(mask, value, emu::ShuffleKind::exclusive_or, lane_mask, width, EMU_HERE("__shfl_xor_sync"));
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, EMU_SITE) {
    return emu::ballot(mask, predicate, EMU_HERE("__ballot_sync"));
}
inline int __any_sync(uint32_t mask, int predicate, EMU_SITE) {
    return emu::ballot(mask, predicate, EMU_HERE("__any_sync")) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, EMU_SITE) {
    return emu::ballot(mask, predicate, EMU_HERE("__all_sync")) == mask;
}

// ---- atomics of integers: builtins, so that ThreadSanitizer can tell them from plain accesses. Atomics of floats
// are left out: their order, and so the result's last bits, would differ from run to run.

template <class T>
T atomicAdd(T* pointer, T value) {
    static_assert(std::is_integral<T>::value, "no float atomics");
    return __atomic_fetch_add(pointer, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicOr(T* pointer, T value) {
    return __atomic_fetch_or(pointer, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicExch(T* pointer, T value) {
    return __atomic_exchange_n(pointer, value, __ATOMIC_RELAXED);
}
template <class T>
T atomicMax(T* pointer, T value) {
    T seen = __atomic_load_n(pointer, __ATOMIC_RELAXED);
    while (seen < value &&
           !__atomic_compare_exchange_n(pointer, &seen, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return seen;
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// ---- arithmetic

template <class T>
T __ldg(const T* pointer) {
    return *pointer;
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
    return uint32_t((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline int __popc(uint32_t value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value ? __builtin_clz(value) : 32; }
inline uint32_t __brev(uint32_t value) {
    uint32_t reversed = 0;
    for (int bit = 0; bit < 32; ++bit) reversed |= (value >> bit & 1u) << (31 - bit);
    return reversed;
}
inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
    const uint64_t bytes = uint64_t(high) << 32 | low;
    uint32_t result = 0;
    for (int byte = 0; byte < 4; ++byte) {
        const uint32_t choice = selector >> (4 * byte) & 0xf;
        uint32_t picked = uint32_t(bytes >> (8 * (choice & 7))) & 0xff;
        if (choice & 8) picked = picked & 0x80 ? 0xff : 0;  // the sign of that byte
        result |= picked << (8 * byte);
    }
    return result;
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __uint_as_float(uint32_t bits) { return emu::bits_as<float>(bits); }
inline float __int_as_float(int bits) { return emu::bits_as<float>(bits); }
inline uint32_t __float_as_uint(float value) { return emu::bits_as<uint32_t>(value); }
inline int __float_as_int(float value) { return emu::bits_as<int>(value); }
inline float __int2float_rn(int value) { return float(value); }

// Both of one type: a mixture means different things to different compilers.
template <class T>
constexpr T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
constexpr T max(T a, T b) {
    return a < b ? b : a;
}
