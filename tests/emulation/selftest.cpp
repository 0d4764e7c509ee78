// Tests of the emulator: every wrapper of sm80.cuh and every intrinsic of the shim against a truth that does not
// share its code: integer matrix products, CuTe's published fragment strides, g++'s own 16-bit floats.
// Mistakes that the emulator has to catch are in plants.cpp.
#include <algorithm>
#include <random>
#include <vector>

#include "cuda/launch.cuh"
#include "cuda/ptx/sm80.cuh"
#include "selftest_support.h"

using namespace pconv::cuda;

// ---- mma.sync, fragments placed by CuTe's strides (cute/atom/mma_traits_sm80.hpp), column-major as it has them

enum class Element { bf16, f16, tf32 };

struct MmaProblem {
    const int* a;  // [16, 16], index m + 16 k; tf32 uses k < 8
    const int* b;  // [8, 16], index n + 8 k
    const int* c;  // [16, 8], index m + 16 n
    float* d;      // the same
};

template <Element element>
uint32_t encode(int value) {
    if (element == Element::bf16) return __bfloat16_as_ushort(float(value));
    if (element == Element::f16) return __half_as_ushort(float(value));
    return __float_as_uint(float(value)) | 0x1fff;  // the low 13 bits have to be ignored
}

template <Element element>
__global__ void mma_kernel(const MmaProblem problem) {
    const int quad = threadIdx.x % 4, group = threadIdx.x / 4;
    uint32_t a[4] = {}, b[2] = {};
    float d[4];
    if constexpr (element == Element::tf32) {
        for (int v = 0; v < 4; ++v) a[v] = encode<element>(problem.a[16 * quad + group + 8 * (v & 1) + 64 * (v >> 1)]);
        for (int v = 0; v < 2; ++v) b[v] = encode<element>(problem.b[8 * quad + group + 32 * v]);
    } else {
        for (int v = 0; v < 8; ++v) {
            const int index = 32 * quad + group + 16 * (v & 1) + 8 * (v >> 1 & 1) + 128 * (v >> 2);
            a[v >> 1] |= encode<element>(problem.a[index]) << 16 * (v & 1);
        }
        for (int v = 0; v < 4; ++v)
            b[v >> 1] |= encode<element>(problem.b[16 * quad + group + 8 * (v & 1) + 64 * (v >> 1)]) << 16 * (v & 1);
    }
    const auto place = [&](int v) { return 32 * quad + group + 16 * (v & 1) + 8 * (v >> 1); };
    for (int v = 0; v < 4; ++v) d[v] = float(problem.c[place(v)]);
    if constexpr (element == Element::bf16) mma_bf16_16816(d, a, b);
    if constexpr (element == Element::f16) mma_f16_16816(d, a, b);
    if constexpr (element == Element::tf32) mma_tf32_1688(d, a, b);
    for (int v = 0; v < 4; ++v) problem.d[place(v)] = d[v];
}

template <Element element>
void check_mma() {
    const int k_count = element == Element::tf32 ? 8 : 16;
    const std::vector<int> a = small_integers(256, 1), b = small_integers(128, 2), c = small_integers(128, 3);
    std::vector<float> d(128);
    CHECK(
        launch("mma", mma_kernel<element>, 1, 32, 0, nullptr, MmaProblem{a.data(), b.data(), c.data(), d.data()}).ok());
    for (int m = 0; m < 16; ++m)
        for (int n = 0; n < 8; ++n) {
            int sum = c[m + 16 * n];
            for (int k = 0; k < k_count; ++k) sum += a[m + 16 * k] * b[n + 8 * k];
            CHECK(d[m + 16 * n] == float(sum));
        }
}

// ---- ldmatrix: matrix products of tiles as they lie in memory, through all four forms

struct ProductProblem {
    const __nv_bfloat16* a;  // [16 m, 16 k], or [16 k, 16 m] where transposed
    const __nv_bfloat16* b;  // [8 n, 16 k], or [16 k, 8 n] where transposed
    float* d;                // [16 m, 8 n]
};

template <bool a_transposed, bool b_transposed>
__global__ void product_kernel(const ProductProblem problem) {
    PCONV_DYN_SMEM(shared);
    const int lane = threadIdx.x;
    const uint32_t a_rows = smem_u32(shared), b_rows = a_rows + 512;
    cp_async_cg_16(a_rows + lane * 16, problem.a + lane * 8, true);
    if (lane < 16) cp_async_ca_16(b_rows + lane * 16, problem.b + lane * 8, true);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();

    uint32_t a[4], b[2];
    float d[4] = {};
    const int row = lane % 8, tile = lane / 8;
    if constexpr (a_transposed)  // tiles in the order (m 0, k 0), (m 8, k 0), (m 0, k 8), (m 8, k 8)
        ldmatrix_x4_trans(a, a_rows + (row + tile / 2 * 8) * 32 + tile % 2 * 16);
    else
        ldmatrix_x4(a, a_rows + (row + tile % 2 * 8) * 32 + tile / 2 * 16);
    if constexpr (b_transposed)
        ldmatrix_x2_trans(b, b_rows + lane % 16 * 16);
    else
        ldmatrix_x2(b, lane < 16 ? b_rows + row * 32 + tile * 16 : 1);  // the other lanes' addresses are not used
    mma_bf16_16816(d, a, b);
    for (int r = 0; r < 4; ++r) problem.d[(lane / 4 + r / 2 * 8) * 8 + lane % 4 * 2 + r % 2] = d[r];
}

template <bool a_transposed, bool b_transposed>
void check_product() {
    const std::vector<int> a = small_integers(256, 4), b = small_integers(128, 5);
    Exact<__nv_bfloat16> a_bytes(256), b_bytes(128);
    for (int i = 0; i < 256; ++i) a_bytes[i] = a[i];
    for (int i = 0; i < 128; ++i) b_bytes[i] = b[i];
    std::vector<float> d(128);
    const ProductProblem problem{a_bytes.data, b_bytes.data, d.data()};
    CHECK(launch("product", product_kernel<a_transposed, b_transposed>, 1, 32, 768, nullptr, problem).ok());
    for (int m = 0; m < 16; ++m)
        for (int n = 0; n < 8; ++n) {
            int sum = 0;
            for (int k = 0; k < 16; ++k)
                sum += a[a_transposed ? k * 16 + m : m * 16 + k] * b[b_transposed ? k * 8 + n : n * 16 + k];
            CHECK(d[m * 8 + n] == float(sum));
        }
}

// ---- shuffles, votes, barriers that count

struct LaneResults {
    int* values;  // [8, 32]
};

__global__ void lanes_kernel(const LaneResults results) {
    const int lane = threadIdx.x, value = 100 + lane;
    const uint32_t all = 0xffffffffu;
    const auto put = [&](int row, int result) { results.values[row * 32 + lane] = result; };
    put(0, __shfl_sync(all, value, lane * 7));
    put(1, __shfl_up_sync(all, value, 3, 8));
    put(2, __shfl_down_sync(all, value, 5));
    put(3, __shfl_xor_sync(all, value, 9));
    put(4, int(__ballot_sync(all, lane % 3 == 0)));
    put(5, __any_sync(all, lane == 31) * 2 + __all_sync(all, lane != 31));
    put(6, __syncthreads_count(lane % 5 == 0));
    put(7, __syncthreads_or(lane == 4) * 2 + __syncthreads_and(lane < 31));
}

void check_lanes() {
    std::vector<int> values(8 * 32);
    CHECK(launch("lanes", lanes_kernel, 1, 32, 0, nullptr, LaneResults{values.data()}).ok());
    uint32_t ballot = 0;
    for (int lane = 0; lane < 32; lane += 3) ballot |= 1u << lane;
    for (int lane = 0; lane < 32; ++lane) {
        const auto at = [&](int row) { return values[row * 32 + lane]; };
        CHECK(at(0) == 100 + lane * 7 % 32);
        CHECK(at(1) == 100 + (lane % 8 >= 3 ? lane - 3 : lane));
        CHECK(at(2) == 100 + (lane + 5 < 32 ? lane + 5 : lane));
        CHECK(at(3) == 100 + (lane ^ 9));
        CHECK(at(4) == int(ballot));
        CHECK(at(5) == 2);
        CHECK(at(6) == 7);
        CHECK(at(7) == 2);
    }
}

// ---- cp.async: predicates, sizes, and groups that land no earlier than they must

struct CopyProblem {
    const uint32_t* source;  // [32 * 4]
    uint32_t* result;        // [32 * 4 + 32]
    uint32_t* early;         // [32]: what the second group's place holds while it may still be in flight
};

__global__ void copies_kernel(const CopyProblem problem) {
    PCONV_DYN_SMEM(shared);
    const int lane = threadIdx.x;
    const uint32_t chunks = smem_u32(shared), words = chunks + 512;
    cp_async_ca_16(chunks + lane * 16, lane % 2 ? problem.source + lane * 4 : nullptr, lane % 2);
    cp_async_commit();
    cp_async_ca_4(words + lane * 4, lane % 3 ? problem.source + lane : nullptr, lane % 3);
    cp_async_commit();
    cp_async_wait<1>();
    const uint32_t* const seen = reinterpret_cast<const uint32_t*>(shared);
    for (int i = 0; i < 4; ++i) problem.result[lane * 4 + i] = seen[lane * 4 + i];
#ifndef __SANITIZE_ADDRESS__  // there the look itself is the error
    problem.early[lane] = seen[128 + lane];
#endif
    cp_async_wait<0>();
    problem.result[128 + lane] = seen[128 + lane];
}

void check_copies() {
    Exact<uint32_t> source(128), result(160), early(32);
    for (int i = 0; i < 128; ++i) source[i] = 1000 + i;
    const CopyProblem problem{source.data, result.data, early.data};
    CHECK(launch("copies", copies_kernel, 1, 32, 640, nullptr, problem).ok());
    for (int i = 0; i < 128; ++i) CHECK(result[i] == (i / 4 % 2 ? 1000u + i : 0u));
    for (int lane = 0; lane < 32; ++lane) {
        CHECK(result[128 + lane] == (lane % 3 ? 1000u + lane : 0u));
        CHECK(early[lane] == 0xffffffffu);
    }
}

// ---- numbers

void check_float16() {
    std::mt19937 random(7);
    for (uint32_t code = 0; code < 1 << 16; ++code) {
        const float half_value = __half2float(__ushort_as_half(code)),
                    value = __bfloat162float(__ushort_as_bfloat16(code));
        CHECK(std::isnan(value) ? (code & 0x7fff) > 0x7f80 : __float_as_uint(value) == code << 16);
        if (!std::isnan(half_value)) CHECK(__half_as_ushort(__float2half(half_value)) == code);
        if (!std::isnan(value)) CHECK(__bfloat16_as_ushort(__float2bfloat16(value)) == code);
#ifdef __FLT16_MAX__
        const float truth = float(emu::bits_as<_Float16>(uint16_t(code)));
        CHECK(std::isnan(truth) ? std::isnan(half_value) : truth == half_value);
#endif
    }
    for (int i = 0; i < 200000; ++i) {
        const uint32_t bits = random();
        const float value = __uint_as_float(bits);
        if (std::isnan(value)) continue;
        CHECK(__bfloat16_as_ushort(__float2bfloat16(value)) == (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
#ifdef __FLT16_MAX__
        const float near = std::ldexp(float(int32_t(bits)), int(bits % 40) - 55);  // where half has its numbers
        CHECK(__half_as_ushort(__float2half(near)) == emu::bits_as<uint16_t>(_Float16(near)));
#endif
        const float rounded = __uint_as_float(to_tf32(value));
        CHECK((to_tf32(value) & 0x1fff) == 0);
        const int exponent = std::max(std::ilogb(value), -126);
        CHECK(std::fabs(double(rounded) - value) <= std::ldexp(1.0, exponent - 11) || std::isinf(rounded));
    }
    CHECK(__double2half(1 + std::ldexp(1.0, -11) + std::ldexp(1.0, -40)) == 1 + 1.0f / 1024);  // rounded once
    CHECK(to_tf32(__uint_as_float(0x3f801000u)) == 0x3f802000u);                               // a tie: away from zero
    CHECK(to_tf32(__uint_as_float(0xbf801000u)) == 0xbf802000u);
    CHECK(pack_bf16x2(1.f, -2.f) == 0xc0003f80u && pack_f16x2(1.f, -2.f) == 0xc0003c00u);
}

void check_bits() {
    CHECK(__popc(0xf0f0u) == 8 && __ffs(0) == 0 && __ffs(8) == 4 && __clz(1) == 31 && __clz(0) == 32);
    CHECK(__brev(1u) == 0x80000000u && __brev(0xf0u) == 0x0f000000u);
    CHECK(__umulhi(0xffffffffu, 0xffffffffu) == 0xfffffffeu && __mulhi(-1, 1) == -1);
    CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x7531u) == 0x77553311u);
    CHECK(__byte_perm(0x00008000u, 0u, 0x0009u) == 0x000000ffu);
    CHECK(__fmaf_rn(1 + 0x1p-23f, 1 - 0x1p-23f, -1.f) == -0x1p-46f);
}

// ---- launches

__global__ void nothing_kernel(int* ran) { atomicAdd(ran, 1); }

void check_launches() {
    int ran = 0;
    const auto status = [&](dim3 grid, dim3 block, size_t shared) {
        return launch("nothing", nothing_kernel, grid, block, shared, nullptr, &ran);
    };
    CHECK(status(dim3(0, 5), 32, 0).ok() && ran == 0);
    const Status too_long = status(dim3(1, 65536), 32, 0);
    CHECK(too_long.error == cudaErrorInvalidConfiguration && std::strcmp(too_long.kernel, "nothing") == 0);
    CHECK(status(dim3(0x80000000u), 32, 0).error == cudaErrorInvalidConfiguration);
    CHECK(status(1, 1025, 0).error == cudaErrorInvalidConfiguration);
    CHECK(status(1, 32, 228 * 1024).error == cudaErrorInvalidValue);
    CHECK(ran == 0);
    CHECK(status(dim3(2, 3, 2), dim3(5, 7), 100).ok() && ran == 12 * 35);
}

int main() {
    for (int policy = 0; policy < emu::policy_count; ++policy) {
        emu::set_policy(policy, policy + 1);
        check_mma<Element::bf16>();
        check_mma<Element::f16>();
        check_mma<Element::tf32>();
        check_product<false, false>();
        check_product<false, true>();
        check_product<true, false>();
        check_product<true, true>();
        check_lanes();
        check_copies();
        check_launches();
    }
    check_float16();
    check_bits();
    return finish();
}
