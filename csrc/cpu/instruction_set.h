// Which instruction set the CPU loops run with. A build with PCONV_ISA=avx2, avx512 or baseline keeps that one alone,
// so that each can be tested on a machine that has them all.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(PCONV_ISA_BASELINE)
#define PCONV_HAS_TILES
#endif

namespace pconv::cpu {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

inline InstructionSet instruction_set() {
#ifdef PCONV_HAS_TILES
#ifndef PCONV_ISA_AVX2
    if (__builtin_cpu_supports("avx512f")) return InstructionSet::kAvx512;
#endif
#ifndef PCONV_ISA_AVX512
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return InstructionSet::kAvx2;
#endif
#endif
    return InstructionSet::kBaseline;
}

}  // namespace pconv::cpu
