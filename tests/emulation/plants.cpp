// Mistakes planted into small kernels: run as `plants NAME`, each must be caught, and `plants correct` must pass.
// What is expected of which build stands in test_emulator.py. A pipeline as the real kernels have it carries most.
#include <cstring>

#include "cuda/launch.cuh"
#include "cuda/ptx/sm80.cuh"
#include "selftest_support.h"

using namespace pconv::cuda;

enum class Mistake {
    none,
    no_wait,
    no_barrier,
    refill_too_early,
    barrier_in_branch,
    ends_before_barrier,
    misaligned_copy,
    never_waits,
    outside_shared,
    shared_read_past_end,
    global_read_past_end,
    shuffle_in_branch,
    shuffle_with_ended_lane,
    no_syncwarp,
    unwritten_shared,
    misaligned_vector,
};

constexpr int threads = 64, steps = 5, stage_bytes = threads * 16;
constexpr int exchange_bytes = threads * 4, shared_bytes = 2 * stage_bytes + exchange_bytes;

struct Pipeline {
    const float* source;  // [steps, threads, 4]
    float* sums;          // [threads]: of what the thread's neighbour loaded, over all steps, plus the warp's first
};

PCONV_DEV const float* chunk(const uint8_t* shared, int step, int thread) {
    return reinterpret_cast<const float*>(shared + step % 2 * stage_bytes + thread * 16);
}

template <Mistake mistake>
PCONV_DEV void load_stage(const Pipeline& problem, uint32_t shared, int step) {
    const int thread = threadIdx.x;
    uint32_t place = shared + step % 2 * stage_bytes + thread * 16;
    if (mistake == Mistake::misaligned_copy && thread == 3) place += 4;
    if (mistake == Mistake::outside_shared && thread == 0) place = step;  // without the base
    const int row = step * threads + thread + (mistake == Mistake::global_read_past_end && step == steps - 1);
    cp_async_ca_16(place, problem.source + row * 4, true);
}

template <Mistake mistake>
__global__ void pipeline_kernel(const Pipeline problem) {
    PCONV_DYN_SMEM(shared);
    const int thread = threadIdx.x, neighbour = (thread + 17) % threads;
    float* const exchange = reinterpret_cast<float*>(shared + 2 * stage_bytes);
    float sum = 0;
    load_stage<mistake>(problem, smem_u32(shared), 0);
    cp_async_commit();
    for (int step = 0; step < steps; ++step) {
        if (mistake != Mistake::refill_too_early && step > 0) __syncthreads();
        if (step + 1 < steps) load_stage<mistake>(problem, smem_u32(shared), step + 1);
        cp_async_commit();
        if (mistake != Mistake::no_wait) cp_async_wait<1>();
        if (mistake != Mistake::no_barrier && (mistake != Mistake::barrier_in_branch || thread % 2)) __syncthreads();
        const bool past_end = mistake == Mistake::shared_read_past_end && step % 2 && thread == 46;
        const float* const values = past_end ? exchange + threads : chunk(shared, step, neighbour);
        for (int i = 0; i < 4; ++i) sum += values[i];
    }
    cp_async_wait<0>();
    if (mistake == Mistake::ends_before_barrier && thread == 5) return;

    if (mistake != Mistake::unwritten_shared || thread != 32) exchange[thread] = sum;
    if (mistake != Mistake::no_syncwarp) __syncwarp();
    sum += exchange[thread & ~31];
    if (mistake == Mistake::shuffle_in_branch ? thread % 2 == 0 : true) sum = __shfl_xor_sync(~0u, sum, 1);
    if (mistake == Mistake::shuffle_with_ended_lane) {
        if (thread == 40) return;
        sum = __shfl_xor_sync(~0u, sum, 2);
    }
    if (mistake == Mistake::misaligned_vector) sum += reinterpret_cast<const float4*>(shared + 4)->x;
    __syncthreads();
    problem.sums[thread] = sum;
    if (mistake == Mistake::never_waits) cp_async_ca_4(smem_u32(exchange + thread), problem.source, true);
}

template <Mistake mistake>
void run_pipeline() {
    Exact<float> source(steps * threads * 4), sums(threads);
    for (int i = 0; i < steps * threads * 4; ++i) source[i] = float(i * 7 % 101);
    CHECK(launch(
              "pipeline", pipeline_kernel<mistake>, 1, threads, shared_bytes, nullptr, Pipeline{source.data, sums.data})
              .ok());
    const auto sum_of = [&](int thread) {
        float sum = 0;
        for (int step = 0; step < steps; ++step)
            for (int i = 0; i < 4; ++i) sum += source[(step * threads + (thread + 17) % threads) * 4 + i];
        return sum;
    };
    for (int thread = 0; thread < threads; ++thread) CHECK(sums[thread] == sum_of(thread ^ 1) + sum_of(thread & ~31));
}

// ---- between blocks, and threads that wait for each other in two places

struct Counter {
    int* count;  // [1]
    bool atomic;
};

__global__ void counting_kernel(const Counter counter) {
    if (threadIdx.x != 0) return;
    if (counter.atomic)
        atomicAdd(counter.count, 1);
    else
        *counter.count += 1;
}

void run_counter(bool atomic) {
    Exact<int> count(1);
    count[0] = 0;
    CHECK(launch("counting", counting_kernel, 8, 32, 0, nullptr, Counter{count.data, atomic}).ok());
    CHECK(count[0] == 8);
}

__global__ void deadlock_kernel(int*) {
    if (threadIdx.x < 16)
        __syncwarp();
    else
        __syncthreads();
}

template <Mistake mistake>
bool run_if(const char* name, const char* wanted) {
    if (std::strcmp(name, wanted) != 0) return false;
    run_pipeline<mistake>();
    return true;
}

int main(int count, char** arguments) {
    const char* const wanted = count == 2 ? arguments[1] : "";
    bool ran = false;
#define PLANT(mistake) ran |= run_if<Mistake::mistake>(#mistake, wanted)
    PLANT(no_wait);
    PLANT(no_barrier);
    PLANT(refill_too_early);
    PLANT(barrier_in_branch);
    PLANT(ends_before_barrier);
    PLANT(misaligned_copy);
    PLANT(never_waits);
    PLANT(outside_shared);
    PLANT(shared_read_past_end);
    PLANT(global_read_past_end);
    PLANT(shuffle_in_branch);
    PLANT(shuffle_with_ended_lane);
    PLANT(no_syncwarp);
    PLANT(unwritten_shared);
    PLANT(misaligned_vector);
    if (std::strcmp(wanted, "correct") == 0) {
        for (int policy = 0; policy < emu::policy_count; ++policy) {
            emu::set_policy(policy, 3);
            run_pipeline<Mistake::none>();
            run_counter(true);
        }
        ran = true;
    }
    if (std::strcmp(wanted, "no_atomic") == 0) run_counter(false), ran = true;
    if (std::strcmp(wanted, "waits_in_two_places") == 0)
        ran = launch("deadlock", deadlock_kernel, 1, 32, 0, nullptr, nullptr).ok();
    if (!ran) std::fprintf(stderr, "no plant of the name '%s'\n", wanted);
    return ran ? finish() : 2;
}
