// As ptx_twins.cu, for the sm_90a wrappers: one JSON object a line with the raw bits of what small kernels computed.
//     nvcc -std=c++17 -O3 -arch=sm_90a -Icsrc -Itests/emulation tests/emulation/ptx_twins_hopper.cu -o ptx_twins_hopper
#include <cstdio>
#include <cstring>

#include "cuda/launch.cuh"
#include "hopper_product.cuh"
#include "hopper_ring.cuh"
#include "twins_support.h"

using namespace pconv::cuda;

// Small integers in either format, from a table rather than a conversion: device and host need not agree on one.
uint16_t code_of(bool is_bf16, uint32_t i) {
    const uint16_t bf16[5] = {0xc000, 0xbf80, 0x0000, 0x3f80, 0x4000};  // -2 to 2
    const uint16_t f16[5] = {0xc000, 0xbc00, 0x0000, 0x3c00, 0x4000};
    const uint16_t* const codes = is_bf16 ? bf16 : f16;  // in one expression UBSan of g++ 12 miscompiles it
    return codes[scramble(i) % 5];
}

Shared<uint16_t> operand(bool is_bf16, int count, uint32_t seed) {
    Shared<uint16_t> codes(count);
    for (int i = 0; i < count; ++i) codes[i] = code_of(is_bf16, i + seed);
    return codes;
}

template <int columns, int a_major, int b_major, bool is_bf16>
bool report_product() {
    const Shared<uint16_t> a = operand(is_bf16, rows * k_count, 0), b = operand(is_bf16, columns * k_count, 1 << 20);
    const Shared<float> d(rows * columns);
    char name[64];
    std::snprintf(name, sizeof name, "wgmma_%s n%d a%d b%d", is_bf16 ? "bf16" : "f16", columns, a_major, b_major);
    const Status status = launch(
        name, product_kernel<columns, a_major, b_major, is_bf16>, dim3(1), dim3(128), product_shared_bytes<columns>,
        cudaStream_t{}, Product{a.to_device(), b.to_device(), d.to_device()});
    return report(name, status, d);
}

template <int columns, bool is_bf16>
bool report_majors() {
    bool fine = report_product<columns, 0, 0, is_bf16>();
    fine = report_product<columns, 0, 1, is_bf16>() && fine;
    fine = report_product<columns, 1, 0, is_bf16>() && fine;
    return report_product<columns, 1, 1, is_bf16>() && fine;
}

bool report_tma(const char* name, int x, int y, int z) {
    constexpr int size_x = 72, size_y = 3, size_z = 30;
    Shared<uint16_t> tensor(size_x * size_y * size_z);
    for (int i = 0; i < size_x * size_y * size_z; ++i) tensor[i] = uint16_t(i + 1);
    const Shared<uint16_t> seen(box_z * 64);
    Box box{{}, {x, y, z}, seen.to_device()};
    const cudaError_t error = make_tensor_map_3d(&box.map, tensor.to_device(), true, size_x, size_y, size_z, box_z);
    if (!went_well(name, error)) return false;
    const Status status = launch(name, tma_kernel, dim3(1), dim3(32), tma_shared_bytes, cudaStream_t{}, box);
    return report(name, status, seen);
}

bool report_ring() {
    const char* const name = "ring: mbarriers, cp.async arrivals, TMA, setmaxnreg";
    const Shared<uint16_t> a = operand(true, ring_rows * ring_k, 0), b = operand(true, ring_columns * ring_k, 1 << 20);
    const Shared<float> d(ring_rows * ring_columns);
    RingProduct product{reinterpret_cast<const __nv_bfloat16*>(a.to_device()), {}, d.to_device()};
    if (!went_well(name, make_tensor_map_3d(&product.b, b.to_device(), true, ring_k, 1, ring_columns, ring_columns)))
        return false;
    const Status status =
        launch(name, ring_kernel<Mistake::none>, dim3(1), dim3(256), ring_shared_bytes, cudaStream_t{}, product);
    return report(name, status, d);
}

bool report_named_barriers() {
    const Shared<int> sums(256);
    const Status status =
        launch("named_barrier", named_barrier_kernel, dim3(1), dim3(256), 1024, cudaStream_t{}, sums.to_device());
    return report("named_barrier", status, sums);
}

int main() {
    bool fine = report_majors<64, true>();
    fine = report_majors<128, true>() && fine;
    fine = report_majors<192, true>() && fine;
    fine = report_majors<256, true>() && fine;
    fine = report_majors<64, false>() && fine;
    fine = report_majors<128, false>() && fine;
    fine = report_majors<192, false>() && fine;
    fine = report_majors<256, false>() && fine;
    fine = report_tma("tma_load_3d inside", 0, 0, 0) && fine;
    fine = report_tma("tma_load_3d past the end", 16, 2, 10) && fine;
    fine = report_tma("tma_load_3d before the beginning", -8, 1, -3) && fine;
    fine = report_named_barriers() && fine;
    fine = report_ring() && fine;
    return fine ? 0 : 1;
}
