// wgmma.mma_async: d (+)= a b with fp32 accumulators, m64 n64, n128, n192 or n256, k16, both operands in shared memory.
//
// The width follows from the number of accumulators. An operand is K-major (0) or MN-major (1), see swizzle.cuh.
// With accumulate = false d is overwritten: start so, never by zeroing d, which makes ptxas serialise the groups.
#pragma once

#include "sm90.cuh"
#include "swizzle.cuh"

#ifndef PCONV_EMULATE  // emulated_ptx_hopper.h has them

// asm wants every register by its number and as an operand.
#define PCONV_NUMBERS_0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define PCONV_NUMBERS_16 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define PCONV_NUMBERS_32 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define PCONV_NUMBERS_48 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define PCONV_NUMBERS_64 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define PCONV_NUMBERS_80 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define PCONV_NUMBERS_96 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define PCONV_NUMBERS_112 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define PCONV_NUMBERS_TO_32 PCONV_NUMBERS_0 "," PCONV_NUMBERS_16
#define PCONV_NUMBERS_TO_64 PCONV_NUMBERS_TO_32 "," PCONV_NUMBERS_32 "," PCONV_NUMBERS_48
#define PCONV_NUMBERS_TO_96 PCONV_NUMBERS_TO_64 "," PCONV_NUMBERS_64 "," PCONV_NUMBERS_80
#define PCONV_NUMBERS_TO_128 PCONV_NUMBERS_TO_96 "," PCONV_NUMBERS_96 "," PCONV_NUMBERS_112
#define PCONV_OPERANDS_4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PCONV_OPERANDS_16(i) \
    PCONV_OPERANDS_4(i), PCONV_OPERANDS_4(i + 4), PCONV_OPERANDS_4(i + 8), PCONV_OPERANDS_4(i + 12)
#define PCONV_OPERANDS_32(i) PCONV_OPERANDS_16(i), PCONV_OPERANDS_16(i + 16)
#define PCONV_OPERANDS_64(i) PCONV_OPERANDS_32(i), PCONV_OPERANDS_32(i + 32)
#define PCONV_OPERANDS_96(i) PCONV_OPERANDS_64(i), PCONV_OPERANDS_32(i + 64)
#define PCONV_OPERANDS_128(i) PCONV_OPERANDS_64(i), PCONV_OPERANDS_64(i + 64)

// columns: n; count: accumulators a thread; a, b, c, ta, tb: the numbers of the operands that follow them.
#define PCONV_WGMMA(name, type, columns, count, a, b, c, ta, tb)                                                      \
    template <int a_major, int b_major>                                                                               \
    PCONV_DEV void name(float (&d)[count], uint64_t a_descriptor, uint64_t b_descriptor, bool accumulate) {           \
        PCONV_SM90A(                                                                                                  \
            asm volatile(                                                                                             \
                "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" #c ", 0;\n"                                    \
                "wgmma.mma_async.sync.aligned.m64n" #columns "k16.f32." #type "." #type " {" PCONV_NUMBERS_TO_##count \
                "}, %" #a ", %" #b ", accumulate, 1, 1, %" #ta ", %" #tb                                              \
                ";\n}" : PCONV_OPERANDS_##count(0) : "l"(a_descriptor),                                               \
                "l"(b_descriptor), "r"(static_cast<int>(accumulate)), "n"(a_major), "n"(b_major)));                   \
    }

namespace pconv::cuda {

PCONV_WGMMA(wgmma_bf16, bf16, 64, 32, 32, 33, 34, 35, 36)
PCONV_WGMMA(wgmma_bf16, bf16, 128, 64, 64, 65, 66, 67, 68)
PCONV_WGMMA(wgmma_bf16, bf16, 192, 96, 96, 97, 98, 99, 100)
PCONV_WGMMA(wgmma_bf16, bf16, 256, 128, 128, 129, 130, 131, 132)
PCONV_WGMMA(wgmma_f16, f16, 64, 32, 32, 33, 34, 35, 36)
PCONV_WGMMA(wgmma_f16, f16, 128, 64, 64, 65, 66, 67, 68)
PCONV_WGMMA(wgmma_f16, f16, 192, 96, 96, 97, 98, 99, 100)
PCONV_WGMMA(wgmma_f16, f16, 256, 128, 128, 129, 130, 131, 132)

}  // namespace pconv::cuda

#undef PCONV_WGMMA
#undef PCONV_OPERANDS_4
#undef PCONV_OPERANDS_16
#undef PCONV_OPERANDS_32
#undef PCONV_OPERANDS_64
#undef PCONV_OPERANDS_96
#undef PCONV_OPERANDS_128
#undef PCONV_NUMBERS_TO_32
#undef PCONV_NUMBERS_TO_64
#undef PCONV_NUMBERS_TO_96
#undef PCONV_NUMBERS_TO_128
#undef PCONV_NUMBERS_0
#undef PCONV_NUMBERS_16
#undef PCONV_NUMBERS_32
#undef PCONV_NUMBERS_48
#undef PCONV_NUMBERS_64
#undef PCONV_NUMBERS_80
#undef PCONV_NUMBERS_96
#undef PCONV_NUMBERS_112

#endif  // PCONV_EMULATE
