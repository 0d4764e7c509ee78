// Mistakes in a warp-specialised pipeline of sm_90 (hopper_ring.cuh): run as `plants_hopper NAME`, see plants.cpp.
#include <cstring>

#include "cuda/launch.cuh"
#include "hopper_ring.cuh"
#include "selftest_support.h"

using namespace pconv::cuda;

template <Mistake mistake>
void run_ring() {
    const std::vector<int> a = small_integers(ring_rows * ring_k, 1), b = small_integers(ring_columns * ring_k, 2);
    Exact<__nv_bfloat16> a_values(a.size()), b_values(b.size());
    for (size_t i = 0; i < a.size(); ++i) a_values[i] = a[i];
    for (size_t i = 0; i < b.size(); ++i) b_values[i] = b[i];
    Exact<float> d(ring_rows * ring_columns);
    RingProduct product{a_values.data, {}, d.data};
    CHECK(make_tensor_map_3d(&product.b, b_values.data, true, ring_k, 1, ring_columns, ring_columns) == cudaSuccess);
    CHECK(launch("ring", ring_kernel<mistake>, 1, 256, ring_shared_bytes, nullptr, product).ok());
    for (int m = 0; m < ring_rows; ++m)
        for (int n = 0; n < ring_columns; ++n) {
            int sum = 0;
            for (int k = 0; k < ring_k; ++k) sum += a[m * ring_k + k] * b[n * ring_k + k];
            CHECK(d[m * ring_columns + n] == float(sum));
        }
}

// Three warpgroups that take as many registers as one thread may have: more than there are.
__global__ void registers_kernel(int*) { registers_increase<240>(); }

template <Mistake mistake>
bool run_if(const char* name, const char* wanted) {
    if (std::strcmp(name, wanted) != 0) return false;
    run_ring<mistake>();
    return true;
}

int main(int count, char** arguments) {
    const char* const wanted = count == 2 ? arguments[1] : "";
    bool ran = false;
#define PLANT(mistake) ran |= run_if<Mistake::mistake>(#mistake, wanted)
    PLANT(no_proxy_fence);
    PLANT(no_wgmma_fence);
    PLANT(no_wgmma_wait);
    PLANT(no_full_wait);
    PLANT(no_empty_wait);
    PLANT(released_too_early);
    PLANT(too_few_bytes);
    PLANT(too_many_arrivals);
    PLANT(wrong_stride);
    PLANT(start_within_swizzle);
    PLANT(uninitialised_barrier);
    PLANT(reads_accumulators);
    if (std::strcmp(wanted, "correct") == 0) {
        for (int policy = 0; policy < emu::policy_count; ++policy) {
            emu::set_policy(policy, 3);
            run_ring<Mistake::none>();
        }
        ran = true;
    }
    if (std::strcmp(wanted, "too_many_registers") == 0)
        ran = launch("registers", registers_kernel, 1, 384, 0, nullptr, nullptr).ok();
    if (!ran) std::fprintf(stderr, "no plant of the name '%s'\n", wanted);
    return ran ? finish() : 2;
}
