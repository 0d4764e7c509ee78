// Tests of the emulator's sm_90 part: wgmma with every operand order, width and element type, TMA with ragged
// boxes, mbarriers: against integer matrix products of operands as they lie in global memory.
// That swizzle and descriptors are what the hardware means is ptx_twins_hopper.cu's question, on a device.
#include <vector>

#include "cuda/launch.cuh"
#include "hopper_product.cuh"
#include "selftest_support.h"

using namespace pconv::cuda;

template <int columns, int a_major, int b_major, bool is_bf16>
void check_product() {
    const std::vector<int> a = small_integers(rows * k_count, 1), b = small_integers(columns * k_count, 2);
    Exact<uint16_t> a_codes(a.size()), b_codes(b.size());
    const auto code = [](int value) {
        return is_bf16 ? __bfloat16_as_ushort(float(value)) : __half_as_ushort(float(value));
    };
    for (size_t i = 0; i < a.size(); ++i) a_codes[i] = code(a[i]);
    for (size_t i = 0; i < b.size(); ++i) b_codes[i] = code(b[i]);
    std::vector<float> d(rows * columns);
    constexpr int shared_bytes = product_shared_bytes<columns>;
    CHECK(launch(
              "product", product_kernel<columns, a_major, b_major, is_bf16>, 1, 128, shared_bytes, nullptr,
              Product{a_codes.data, b_codes.data, d.data()})
              .ok());
    for (int m = 0; m < rows; ++m)
        for (int n = 0; n < columns; ++n) {
            int sum = 0;
            for (int k = 0; k < k_count; ++k)
                sum += a[a_major ? k * rows + m : m * k_count + k] * b[b_major ? k * columns + n : n * k_count + k];
            CHECK(d[m * columns + n] == float(sum));
        }
}

void check_tma(int x, int y, int z) {
    constexpr int size_x = 72, size_y = 3, size_z = 30;
    Exact<uint16_t> tensor(size_x * size_y * size_z), seen(box_z * 64);
    for (int i = 0; i < size_x * size_y * size_z; ++i) tensor[i] = uint16_t(i + 1);
    Box box{{}, {x, y, z}, seen.data};
    CHECK(make_tensor_map_3d(&box.map, tensor.data, true, size_x, size_y, size_z, box_z) == cudaSuccess);
    CHECK(launch("tma", tma_kernel, 1, 32, tma_shared_bytes, nullptr, box).ok());
    for (int row = 0; row < box_z; ++row)
        for (int column = 0; column < 64; ++column) {
            const int at_x = x + column, at_z = z + row;
            const bool inside = at_x >= 0 && at_x < size_x && y >= 0 && y < size_y && at_z >= 0 && at_z < size_z;
            const int index = (at_z * size_y + y) * size_x + at_x;
            CHECK(seen[row * 64 + column] == (inside ? uint16_t(index + 1) : 0));
        }
}

void check_named_barriers() {
    std::vector<int> sums(256);
    CHECK(launch("named_barrier", named_barrier_kernel, 1, 256, 1024, nullptr, sums.data()).ok());
    for (int thread = 0; thread < 256; ++thread) CHECK(sums[thread] == (thread ^ 127) + thread);
}

template <int columns, bool is_bf16>
void check_majors() {
    check_product<columns, 0, 0, is_bf16>();
    check_product<columns, 0, 1, is_bf16>();
    check_product<columns, 1, 0, is_bf16>();
    check_product<columns, 1, 1, is_bf16>();
}

int main() {
    check_majors<64, true>();
    check_majors<128, true>();
    check_majors<192, true>();
    check_majors<256, true>();
    check_majors<64, false>();
    check_majors<128, false>();
    check_majors<192, false>();
    check_majors<256, false>();
    for (int policy = 0; policy < emu::policy_count; ++policy) {
        emu::set_policy(policy, policy + 1);
        check_product<64, 0, 1, true>();
        check_tma(0, 0, 0);
        check_tma(16, 2, 10);   // past the ends of x and z
        check_tma(-8, -1, -3);  // before the beginnings, all of y outside
        check_named_barriers();
    }
    return finish();
}
