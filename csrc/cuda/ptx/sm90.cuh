// The PTX instructions that only sm_90a has: mbarriers with transactions, TMA, wgmma, register reallocation.
//
// For any other architecture the wrappers compile to nothing, and `hopper_instructions` is false: a kernel's body
// stands behind `if constexpr (hopper_instructions)`, so that one source serves every architecture of a build.
#pragma once

#include "sm80.cuh"

#ifdef PCONV_EMULATE
#include "emulated_ptx_hopper.h"
#else

#include <cuda.h>
#include <cudaTypedefs.h>

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define PCONV_SM90A(...) __VA_ARGS__
#else
#define PCONV_SM90A(...)
#endif

namespace pconv::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool hopper_instructions = true;
#else
constexpr bool hopper_instructions = false;
#endif

// Kept inside a kernel's parameter struct, which has to be `const __grid_constant__` then.
using TensorMap = CUtensorMap;

// ---- barriers

// Barrier `id` (1 to 15) for `threads` threads of the block, whole warps.
PCONV_DEV void named_barrier(int id, int threads) {
    PCONV_SM90A(asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"));
}

PCONV_DEV void mbarrier_init(uint32_t barrier, int arrivals) {
    PCONV_SM90A(asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory"));
}

// By the thread that initialised, before the __syncthreads that shows the barriers to others (TMA among them).
PCONV_DEV void mbarrier_init_fence() {
    PCONV_SM90A(asm volatile("fence.mbarrier_init.release.cluster;" :: : "memory"));
}

PCONV_DEV void mbarrier_arrive(uint32_t barrier) {
    PCONV_SM90A(asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory"));
}

// A predicate instead of a branch: with control flow between two groups of wgmma in flight ptxas serialises them.
PCONV_DEV void mbarrier_arrive_if(uint32_t barrier, bool predicate) {
    PCONV_SM90A(
        asm volatile(
            "{\n.reg .pred arrives;\nsetp.ne.b32 arrives, %1, 0;\n"
            "@arrives mbarrier.arrive.shared::cta.b64 _, [%0];\n}" ::"r"(barrier),
            "r"(static_cast<int>(predicate)) : "memory"));
}

// Arrives, and holds the phase open until `bytes` more have been written by TMA (out-of-range parts count).
PCONV_DEV void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
    PCONV_SM90A(
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory"));
}

// Returns once the phase of this parity has ended; the first phase has parity 0.
PCONV_DEV void mbarrier_wait(uint32_t barrier, int parity) {
    PCONV_SM90A(
        asm volatile(
            "{\n.reg .pred done;\nAGAIN:\n"
            "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
            "@done bra DONE;\nbra AGAIN;\nDONE:\n}" ::"r"(barrier),
            "r"(parity) : "memory"));
}

// Arrives for this thread once all its cp.async so far have landed; one of the barrier's expected arrivals.
PCONV_DEV void cp_async_mbarrier_arrive(uint32_t barrier) {
    PCONV_SM90A(asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory"));
}

// ---- TMA: a box of a tensor, by one thread. The destination is 1024-aligned; what lies outside reads as 0.

PCONV_DEV void tma_load_3d(uint32_t destination, const TensorMap* map, int x, int y, int z, uint32_t barrier) {
    PCONV_SM90A(
        asm volatile(
            "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
            "[%0], [%1, {%2, %3, %4}], [%5];" ::"r"(destination),
            "l"(map), "r"(x), "r"(y), "r"(z), "r"(barrier) : "memory"));
}

// Makes this thread's (or, behind a barrier, other threads') ordinary writes and cp.async to shared memory visible
// to wgmma and TMA. Needed between the two, on either side of the barrier.
PCONV_DEV void fence_proxy_async() { PCONV_SM90A(asm volatile("fence.proxy.async.shared::cta;" :: : "memory")); }

// ---- wgmma: four warps; accumulators and operands belong to the tensor cores from issue to wait.

// After every wait, before the next wgmma of the same accumulators.
PCONV_DEV void wgmma_fence() { PCONV_SM90A(asm volatile("wgmma.fence.sync.aligned;" :: : "memory")); }
PCONV_DEV void wgmma_commit() { PCONV_SM90A(asm volatile("wgmma.commit_group.sync.aligned;" :: : "memory")); }

template <int groups>
PCONV_DEV void wgmma_wait() {
    PCONV_SM90A(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(groups) : "memory"));
}

// Around a wait: keeps the compiler from moving uses of the accumulators across it.
template <int registers>
PCONV_DEV void wgmma_pin(float (&accumulators)[registers]) {
#pragma unroll
    for (int i = 0; i < registers; ++i) PCONV_SM90A(asm volatile("" : "+f"(accumulators[i])::"memory"));
}

// One warpgroup hands registers back, another takes them; in a kernel with a fixed register count.
template <int registers>
PCONV_DEV void registers_decrease() {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "what setmaxnreg takes");
    PCONV_SM90A(asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers)));
}
template <int registers>
PCONV_DEV void registers_increase() {
    static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256, "what setmaxnreg takes");
    PCONV_SM90A(asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers)));
}

}  // namespace pconv::cuda

#endif  // PCONV_EMULATE
