// The twins of csrc/cuda/ptx/sm80.cuh: the same names, what the instructions mean lane by lane.
//
// Memory is read and written here, by the lane whose address it is, so that the sanitizers see every access with
// the kernel's line in the stack; what crosses lanes happens in the runtime.
#pragma once

#include "cuda_shim.h"

#define PCONV_DEV inline
#define PCONV_DYN_SMEM(name) uint8_t* const name = emu::shared_base

namespace pconv::cuda {

inline uint32_t smem_u32(const void* pointer) {
    return uint32_t(static_cast<const uint8_t*>(pointer) - emu::shared_base) + emu::shared_window;
}

// ---- ldmatrix

namespace twin {
template <int tiles>
void ldmatrix(uint32_t (&result)[tiles], uint32_t row_address, bool transposed, const emu::Site& site) {
    emu::LdmatrixArguments arguments{};
    arguments.tiles = tiles;
    arguments.transposed = transposed;
    if (emu::current->lane < 8 * tiles) {  // the other lanes' addresses are not used
        if (row_address % 16) emu::fail(&site, "the row address 0x%x is not a multiple of 16", row_address);
        const uint4 row = *reinterpret_cast<const uint4*>(emu::shared_pointer(row_address, 16, site));
        std::memcpy(arguments.row, &row, sizeof row);
    }
    emu::warp_collective(emu::warp_ldmatrix, ~0u, &arguments, site);
    for (int tile = 0; tile < tiles; ++tile) result[tile] = arguments.result[tile];
}
}  // namespace twin

inline void ldmatrix_x4(uint32_t (&tiles)[4], uint32_t row_address, EMU_SITE) {
    twin::ldmatrix(tiles, row_address, false, EMU_HERE("ldmatrix.x4"));
}
inline void ldmatrix_x4_trans(uint32_t (&tiles)[4], uint32_t row_address, EMU_SITE) {
    twin::ldmatrix(tiles, row_address, true, EMU_HERE("ldmatrix.x4.trans"));
}
inline void ldmatrix_x2(uint32_t (&tiles)[2], uint32_t row_address, EMU_SITE) {
    twin::ldmatrix(tiles, row_address, false, EMU_HERE("ldmatrix.x2"));
}
inline void ldmatrix_x2_trans(uint32_t (&tiles)[2], uint32_t row_address, EMU_SITE) {
    twin::ldmatrix(tiles, row_address, true, EMU_HERE("ldmatrix.x2.trans"));
}

// ---- mma.sync: summed in double and rounded once. Hardware keeps fewer bits on the way: compare with a tolerance.

namespace twin {
inline void mma(
    const emu::WarpOperation& operation, float (&d)[4], const uint32_t (&a)[4], const uint32_t* b,
    const emu::Site& site) {
    emu::MmaArguments arguments{{a[0], a[1], a[2], a[3]}, {b[0], b[1]}, {d[0], d[1], d[2], d[3]}};
    emu::warp_collective(operation, ~0u, &arguments, site);
    for (int i = 0; i < 4; ++i) d[i] = arguments.d[i];
}
}  // namespace twin

inline void mma_bf16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b /* [2] */, EMU_SITE) {
    twin::mma(emu::warp_mma_bf16, d, a, b, EMU_HERE("mma.m16n8k16.bf16"));
}
inline void mma_f16_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b /* [2] */, EMU_SITE) {
    twin::mma(emu::warp_mma_f16, d, a, b, EMU_HERE("mma.m16n8k16.f16"));
}
inline void mma_tf32_1688(float (&d)[4], const uint32_t (&a)[4], const uint32_t* b /* [2] */, EMU_SITE) {
    twin::mma(emu::warp_mma_tf32, d, a, b, EMU_HERE("mma.m16n8k8.tf32"));
}

// cvt.rna: to nearest, ties away from zero, which is half a unit added to the magnitude. A NaN is left one.
inline uint32_t to_tf32(float value) {
    if (std::isnan(value)) return 0x7fffffffu;
    return (emu::bits_as<uint32_t>(value) + 0x1000u) & ~0x1fffu;
}

// ---- cp.async. At issue: the source is read, the destination becomes NaN (a write that TSan sees) and forbidden
// ground for ASan. The data arrive at the wait, the latest moment that is allowed.

namespace twin {
template <class Chunk>
void cp_async(uint32_t destination, const void* source, bool predicate, const emu::Site& site) {
    const bool source_aligned = reinterpret_cast<uintptr_t>(source) % sizeof(Chunk) == 0;
    if (destination % sizeof(Chunk) || !source_aligned)
        emu::fail(&site, "misaligned: destination 0x%x, source %p, %zu bytes", destination, source, sizeof(Chunk));
    Chunk data{}, unfinished;
    if (predicate) data = *static_cast<const Chunk*>(source);
    std::memset(&unfinished, 0xff, sizeof unfinished);
    Chunk* const target = reinterpret_cast<Chunk*>(emu::shared_pointer(destination, sizeof(Chunk), site));
    *target = unfinished;
    emu::poison(target, sizeof(Chunk));
    emu::copy_push(target, &data, sizeof(Chunk), site);
}

template <class Chunk>
void land(const emu::LandedCopy& copy) {
    emu::unpoison(copy.destination, sizeof(Chunk));
    *static_cast<Chunk*>(copy.destination) = *static_cast<const Chunk*>(copy.data);
    emu::generic_write(smem_u32(copy.destination), sizeof(Chunk));
}
}  // namespace twin

inline void cp_async_ca_16(uint32_t destination, const void* source, bool predicate, EMU_SITE) {
    twin::cp_async<uint4>(destination, source, predicate, EMU_HERE("cp.async.ca.16"));
}
inline void cp_async_cg_16(uint32_t destination, const void* source, bool predicate, EMU_SITE) {
    twin::cp_async<uint4>(destination, source, predicate, EMU_HERE("cp.async.cg.16"));
}
inline void cp_async_ca_4(uint32_t destination, const void* source, bool predicate, EMU_SITE) {
    twin::cp_async<uint32_t>(destination, source, predicate, EMU_HERE("cp.async.ca.4"));
}
inline void cp_async_commit() { emu::copy_commit(); }

template <int groups>
void cp_async_wait() {
    emu::LandedCopy copy;
    while (emu::copy_pop(groups, &copy)) {
        if (copy.bytes == 16)
            twin::land<uint4>(copy);
        else
            twin::land<uint32_t>(copy);
    }
}

// ---- packing

inline uint32_t pack_bf16x2(float low, float high) {
    return __bfloat16_as_ushort(low) | uint32_t(__bfloat16_as_ushort(high)) << 16;
}
inline uint32_t pack_f16x2(float low, float high) {
    return __half_as_ushort(low) | uint32_t(__half_as_ushort(high)) << 16;
}

}  // namespace pconv::cuda
