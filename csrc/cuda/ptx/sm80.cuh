// Every PTX instruction that the sm_80 kernels use, once each. Nothing else in csrc contains asm.
//
// Shared memory is addressed by 32-bit numbers from smem_u32, so that the same arithmetic serves instructions and
// descriptors. With PCONV_EMULATE the twins in tests/emulation take these functions' places: a change here needs
// the same change there, and a run of tests/emulation/ptx_twins.cu on a device to compare the two.
#pragma once

#ifdef PCONV_EMULATE
#include "emulated_ptx.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#define PCONV_DEV __device__ __forceinline__
// 1024 bytes is the period of the widest swizzle: tiles may begin at the start of the array.
#define PCONV_DYN_SMEM(name) extern __shared__ __align__(1024) uint8_t name[]

namespace pconv::cuda {

PCONV_DEV uint32_t smem_u32(const void* pointer) { return static_cast<uint32_t>(__cvta_generic_to_shared(pointer)); }

// ---- ldmatrix: 8x8 tiles of 16-bit elements. Lane 8 i + r supplies the address of row r of tile i (16-byte
// aligned); every lane receives two neighbouring elements of a row (or, .trans, of a column) of each tile.

PCONV_DEV void ldmatrix_x4(uint32_t (&tiles)[4], uint32_t row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(row_address)
                 : "memory");
}

PCONV_DEV void ldmatrix_x4_trans(uint32_t (&tiles)[4], uint32_t row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
                 : "r"(row_address)
                 : "memory");
}

PCONV_DEV void ldmatrix_x2(uint32_t (&tiles)[2], uint32_t row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(tiles[0]), "=r"(tiles[1])
                 : "r"(row_address)
                 : "memory");
}

PCONV_DEV void ldmatrix_x2_trans(uint32_t (&tiles)[2], uint32_t row_address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(tiles[0]), "=r"(tiles[1])
                 : "r"(row_address)
                 : "memory");
}

// ---- mma.sync: d += a b with fp32 accumulators; a is 16 rows of K, b is 8 columns of K.

PCONV_DEV void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b /* [2] */) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

PCONV_DEV void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b /* [2] */) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The operands are the bits of fp32 numbers, of which the hardware ignores the low 13: a truncation. Go through
// to_tf32 for rounding to nearest.
PCONV_DEV void mma_tf32_1688(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b /* [2] */) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

PCONV_DEV uint32_t to_tf32(float value) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

// ---- cp.async: global to shared without registers. Where the predicate is false zeros are written and the source
// is not read: it has to be aligned, but it may lie outside the tensor, as the pixels beyond an image's border do.

PCONV_DEV void cp_async_ca_16(uint32_t destination, const void* source, bool predicate) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
                 "r"(predicate ? 16 : 0)
                 : "memory");
}

// Past L1: for what no other row of the tile reads again.
PCONV_DEV void cp_async_cg_16(uint32_t destination, const void* source, bool predicate) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
                 "r"(predicate ? 16 : 0)
                 : "memory");
}

PCONV_DEV void cp_async_ca_4(uint32_t destination, const void* source, bool predicate) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(destination), "l"(source), "r"(predicate ? 4 : 0)
                 : "memory");
}

PCONV_DEV void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `groups` of this thread's newest groups are still in flight. Other threads see the data only
// after a barrier.
template <int groups>
PCONV_DEV void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

// ---- two fp32 numbers, each rounded to nearest even, as one register: `low` in bits 0-15.

PCONV_DEV uint32_t pack_bf16x2(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

PCONV_DEV uint32_t pack_f16x2(float low, float high) {
    uint32_t packed;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

}  // namespace pconv::cuda

#endif  // PCONV_EMULATE
