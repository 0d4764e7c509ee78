// Element types: how each is read, computed with and written, in forms that the compiler vectorises.
#pragma once

#include <cstdint>
#include <cstring>

// Loops are compiled for three instruction sets, and the loader picks one for the machine it finds.
// Bodies that such a loop calls have to be inlined into it (PCONV_INLINE), or they stay baseline code.
// PCONV_ISA (setup.py) fixes one set, so that tests reach the copies that this machine would not pick.
#if defined(PCONV_ISA_AVX512)
#define PCONV_CLONES __attribute__((target("avx512f")))
#elif defined(PCONV_ISA_AVX2)
#define PCONV_CLONES __attribute__((target("avx2")))
#elif !defined(PCONV_ISA_BASELINE) && defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
#define PCONV_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define PCONV_CLONES
#endif
#if defined(_MSC_VER) && !defined(__clang__)
#define PCONV_INLINE __forceinline
#else
#define PCONV_INLINE inline __attribute__((always_inline))
#endif

namespace pconv::cpu {

template <class To, class From>
PCONV_INLINE To bits(From value) {
    static_assert(sizeof(To) == sizeof(From));
    To out;
    std::memcpy(&out, &value, sizeof(To));
    return out;
}

struct BFloat16 {
    uint16_t raw;
};

struct Half {
    uint16_t raw;
};

// What an element is computed in.
template <class T>
struct Precise {
    using type = float;
};
template <>
struct Precise<double> {
    using type = double;
};
template <class T>
using precise_t = typename Precise<T>::type;

PCONV_INLINE double load(double value) { return value; }
PCONV_INLINE float load(float value) { return value; }
PCONV_INLINE float load(BFloat16 value) { return bits<float>(uint32_t(value.raw) << 16); }

// The half's exponent and mantissa moved to the float's places give the value times 2^-112, subnormals included.
PCONV_INLINE float load(Half value) {
    const uint32_t magnitude = value.raw & 0x7FFFu;
    const uint32_t finite = bits<uint32_t>(bits<float>(magnitude << 13) * 0x1p112f);
    const uint32_t special = 0x7F800000u | (magnitude << 13);  // infinity and NaN keep the largest exponent
    return bits<float>((uint32_t(value.raw & 0x8000u) << 16) | (magnitude < 0x7C00u ? finite : special));
}

PCONV_INLINE void store(double& out, double value) { out = value; }
PCONV_INLINE void store(float& out, float value) { out = value; }

// Round to nearest, ties to even: add just under half of the last kept bit, plus one where that bit is odd.
PCONV_INLINE void store(BFloat16& out, float value) {
    const uint32_t raw = bits<uint32_t>(value);
    const uint32_t rounded = (raw + 0x7FFFu + ((raw >> 16) & 1u)) >> 16;
    out.raw = uint16_t((raw & 0x7FFFFFFFu) > 0x7F800000u ? 0x7FC0u : rounded);
}

PCONV_INLINE void store(Half& out, float value) {
    const uint32_t raw = bits<uint32_t>(value);
    const uint32_t magnitude = raw & 0x7FFFFFFFu;
    // Normal: rebias the exponent by 112 and round as above. Subnormal: beside 0.5 the float's last bit is
    // 2^-24, the half's, so the addition itself rounds. From 65520 on: infinity.
    const uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((raw >> 13) & 1u)) >> 13;
    const uint32_t subnormal = bits<uint32_t>(bits<float>(magnitude) + 0.5f) - bits<uint32_t>(0.5f);
    const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
    const uint32_t special = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
    out.raw = uint16_t(((raw >> 16) & 0x8000u) | (magnitude < 0x477FF000u ? finite : special));
}

// LOOPS(type, the suffix of its functions' names).
#define PCONV_EACH_TYPE(LOOPS) LOOPS(double, f64) LOOPS(float, f32) LOOPS(BFloat16, bf16) LOOPS(Half, f16)

}  // namespace pconv::cpu
