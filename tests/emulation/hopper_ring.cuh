// A warp-specialised pipeline of sm_90, as it should be and with mistakes that the emulator has to find. One
// warpgroup loads (A by cp.async, B by TMA) into a ring of two stages, the other multiplies.
#pragma once

#include "cuda/ptx/tensor_map.cuh"
#include "cuda/ptx/wgmma.cuh"

namespace pconv::cuda {

enum class Mistake {
    none,
    no_proxy_fence,
    no_wgmma_fence,
    no_wgmma_wait,
    no_full_wait,
    no_empty_wait,
    released_too_early,
    too_few_bytes,
    too_many_arrivals,
    wrong_stride,
    start_within_swizzle,
    uninitialised_barrier,
    reads_accumulators,
};

constexpr int ring_rows = 64, ring_columns = 64, ring_k = 312, step_k = 64, steps = 5,
              stages = 2;  // a ragged last step
constexpr int tile_bytes = 64 * step_k * 2, stage_bytes = 2 * tile_bytes, ring_shared_bytes = stages * stage_bytes + 64;

struct RingProduct {
    const __nv_bfloat16* a;  // [ring_rows, ring_k]
    TensorMap b;             // [ring_columns, 1, ring_k]
    float* d;                // [ring_rows, ring_columns]
};

struct Ring {
    uint32_t base;
    PCONV_DEV uint32_t a(int step) const { return base + step % stages * stage_bytes; }
    PCONV_DEV uint32_t b(int step) const { return a(step) + tile_bytes; }
    PCONV_DEV uint32_t full(int step) const { return base + stages * stage_bytes + step % stages * 8; }
    PCONV_DEV uint32_t empty(int step) const { return full(step) + stages * 8; }
    PCONV_DEV int parity(int step) const { return step / stages & 1; }
};

template <Mistake mistake>
PCONV_DEV void produce(const RingProduct& product, const Ring ring) {
    registers_decrease<56>();
    const int thread = threadIdx.x;
    for (int step = 0; step < steps; ++step) {
        if (mistake != Mistake::no_empty_wait) mbarrier_wait(ring.empty(step), ring.parity(step) ^ 1);
        for (int i = thread; i < ring_rows * 8; i += 128) {
            const int row = i / 8, chunk = i % 8, k = step * step_k + chunk * 8;
            const bool inside = k < ring_k;
            const __nv_bfloat16* const source = inside ? product.a + row * ring_k + k : product.a;
            cp_async_ca_16(ring.a(step) + swizzle_128(row, chunk), source, inside);
        }
        cp_async_mbarrier_arrive(ring.full(step));
        if (thread == 0) {
            mbarrier_arrive_expect(ring.full(step), tile_bytes - (mistake == Mistake::too_few_bytes ? 16 : 0));
            tma_load_3d(ring.b(step), &product.b, step * step_k, 0, 0, ring.full(step));
        }
    }
}

template <Mistake mistake>
PCONV_DEV void consume(const RingProduct& product, const Ring ring) {
    registers_increase<200>();
    const int thread = threadIdx.x % 128;
    float d[ring_columns / 2];
    for (int step = 0; step < steps; ++step) {
        if (mistake != Mistake::no_full_wait) mbarrier_wait(ring.full(step), ring.parity(step));
        if (mistake != Mistake::no_proxy_fence) fence_proxy_async();
        if (mistake != Mistake::no_wgmma_fence || step == 0) wgmma_fence();
        const uint32_t stride = mistake == Mistake::wrong_stride ? 512 : 1024;
        const int k_bytes = mistake == Mistake::start_within_swizzle ? 128 : 32;
#pragma unroll
        for (int sixteen = 0; sixteen < 4; ++sixteen)
            wgmma_bf16<0, 0>(
                d, wgmma_descriptor(ring.a(step) + sixteen * k_bytes, 16, stride),
                wgmma_descriptor(ring.b(step) + sixteen * 32, 16, 1024), step + sixteen > 0);
        wgmma_commit();
        if (mistake == Mistake::released_too_early && thread % 32 == 0) mbarrier_arrive(ring.empty(step));
        wgmma_pin(d);
        if (mistake == Mistake::reads_accumulators && step == steps - 1)
            wgmma_wait<1>();
        else if (mistake != Mistake::no_wgmma_wait)
            wgmma_wait<0>();
        wgmma_pin(d);
        const bool arrives = mistake == Mistake::too_many_arrivals ? thread % 16 == 0 : thread % 32 == 0;
        if (mistake != Mistake::released_too_early) mbarrier_arrive_if(ring.empty(step), arrives);
    }
#pragma unroll
    for (int i = 0; i < ring_columns / 2; ++i) {
        const int row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
        product.d[row * ring_columns + 8 * (i / 4) + 2 * (thread % 4) + i % 2] = d[i];
    }
    if (mistake == Mistake::reads_accumulators) wgmma_wait<0>();
}

template <Mistake mistake>
PCONV_DEV void run_roles(const RingProduct& product, uint8_t* shared) {
    const Ring ring{smem_u32(shared)};
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < stages; ++stage) {
            mbarrier_init(ring.full(stage), 128 + 1);
            if (mistake != Mistake::uninitialised_barrier) mbarrier_init(ring.empty(stage), 4);
        }
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < 128)
        produce<mistake>(product, ring);
    else
        consume<mistake>(product, ring);
}

// Two blocks an SM: 128 registers a thread at the entry, of which one role gives 72 to the other.
template <Mistake mistake>
__global__ void __launch_bounds__(256, 2) ring_kernel(const __grid_constant__ RingProduct product) {
    PCONV_DYN_SMEM(shared);
    if constexpr (hopper_instructions) run_roles<mistake>(product, shared);
}

}  // namespace pconv::cuda
