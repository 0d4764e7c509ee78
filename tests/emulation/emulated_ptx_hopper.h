// The twins of csrc/cuda/ptx/sm90.cuh. Included by it.
#pragma once

#include "emulated_ptx.h"
#include "runtime_hopper.h"

namespace pconv::cuda {

constexpr bool hopper_instructions = true;

using TensorMap = emu::TensorMap;

inline void named_barrier(int id, int threads, EMU_SITE) {
    emu::block_barrier(id, threads, 0, emu::Reduction::none, EMU_HERE("bar.sync"));
}
inline void mbarrier_init(uint32_t barrier, int arrivals, EMU_SITE) {
    emu::mbarrier_init(barrier, arrivals, EMU_HERE("mbarrier.init"));
}
inline void mbarrier_init_fence() {}
inline void mbarrier_arrive(uint32_t barrier, EMU_SITE) {
    emu::mbarrier_arrive(barrier, 0, EMU_HERE("mbarrier.arrive"));
}
inline void mbarrier_arrive_if(uint32_t barrier, bool predicate, EMU_SITE) {
    if (predicate) emu::mbarrier_arrive(barrier, 0, EMU_HERE("mbarrier.arrive"));
}
inline void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes, EMU_SITE) {
    emu::mbarrier_arrive(barrier, bytes, EMU_HERE("mbarrier.arrive.expect_tx"));
}
inline void mbarrier_wait(uint32_t barrier, int parity, EMU_SITE) {
    emu::mbarrier_wait(barrier, parity, EMU_HERE("mbarrier.try_wait"));
}
inline void cp_async_mbarrier_arrive(uint32_t barrier, EMU_SITE) {
    emu::copies_arrive(barrier, EMU_HERE("cp.async.mbarrier.arrive.noinc"));
}
inline void tma_load_3d(uint32_t destination, const TensorMap* map, int x, int y, int z, uint32_t barrier, EMU_SITE) {
    emu::tma_load(destination, *map, {x, y, z}, barrier, EMU_HERE("cp.async.bulk.tensor.3d"));
}
inline void fence_proxy_async() { emu::fence_proxy(); }

inline void wgmma_fence() { emu::wgmma_fence(); }
inline void wgmma_commit() { emu::wgmma_commit(); }
template <int groups>
void wgmma_wait(EMU_SITE) {
    emu::wgmma_wait(groups, EMU_HERE("wgmma.wait_group"));
}
template <int registers>
void wgmma_pin(float (&)[registers]) {}
template <int registers>
void registers_decrease() {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "what setmaxnreg takes");
    emu::set_registers(registers);
}
template <int registers>
void registers_increase() {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "what setmaxnreg takes");
    emu::set_registers(registers);
}

namespace twin {
template <int a_major, int b_major, int count>
void wgmma(
    float (&d)[count], uint64_t a, uint64_t b, bool accumulate, emu::WgmmaElement element, const emu::Site& site) {
    static_assert(count == 32 || count == 64 || count == 96 || count == 128, "n64, n128, n192 or n256");
    emu::wgmma_issue(d, {a, b, 2 * count, accumulate, a_major == 1, b_major == 1, element}, site);
}
}  // namespace twin

template <int a_major, int b_major, int count>
void wgmma_bf16(float (&d)[count], uint64_t a_descriptor, uint64_t b_descriptor, bool accumulate, EMU_SITE) {
    twin::wgmma<a_major, b_major>(
        d, a_descriptor, b_descriptor, accumulate, emu::WgmmaElement::bf16, EMU_HERE("wgmma.bf16"));
}
template <int a_major, int b_major, int count>
void wgmma_f16(float (&d)[count], uint64_t a_descriptor, uint64_t b_descriptor, bool accumulate, EMU_SITE) {
    twin::wgmma<a_major, b_major>(
        d, a_descriptor, b_descriptor, accumulate, emu::WgmmaElement::f16, EMU_HERE("wgmma.f16"));
}

// csrc/cuda/ptx/tensor_map.cuh: a dense tensor of 16-bit elements in boxes of [box_z, 1, 64].
inline cudaError_t make_tensor_map_3d(
    TensorMap* map, const void* tensor /* [size_z, size_y, size_x] */, bool /* is_bf16 */, int64_t size_x,
    int64_t size_y, int64_t size_z, int box_z) {
    // What the driver refuses too.
    if (size_x % 8 || size_x < 1 || size_y < 1 || size_z < 1 || box_z < 1 || box_z > 256) return cudaErrorInvalidValue;
    if (reinterpret_cast<uintptr_t>(tensor) % 16) return cudaErrorInvalidValue;
    *map = {
        static_cast<const uint8_t*>(tensor),
        {size_x, size_y, size_z},
        {2, size_x * 2, size_x * size_y * 2},
        {64, 1, box_z}};
    return cudaSuccess;
}

}  // namespace pconv::cuda
