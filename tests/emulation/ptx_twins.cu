// Runs every wrapper of sm80.cuh on fixed data and prints the raw bits, one JSON object a line:
//     {"wrapper": "ldmatrix_x4", "bits": ["00010000", ...]}
// Built by nvcc it asks the hardware, built by build.py the emulator; compare_twins.py compares the two outputs bit
// by bit. Sums of products are of small integers, so that they are exact in whatever order they are added.
//     nvcc -std=c++17 -O3 -arch=sm_80 -Icsrc -Itests/emulation tests/emulation/ptx_twins.cu -o ptx_twins
#include <cstring>

#include "cuda/launch.cuh"
#include "cuda/ptx/sm80.cuh"
#include "twins_support.h"

using namespace pconv::cuda;

constexpr int lanes = 32, words_per_lane = 8, input_words = 1024, shared_bytes = input_words * 4;

struct Job {
    const uint32_t* input;  // [input_words]
    uint32_t* output;       // [lanes, words_per_lane]
};

// All of a job's input in shared memory, by ordinary stores.
PCONV_DEV uint32_t fill_shared(const Job& job, uint8_t* shared) {
    uint32_t* const words = reinterpret_cast<uint32_t*>(shared);
    for (int i = threadIdx.x; i < input_words; i += lanes) words[i] = job.input[i];
    __syncthreads();
    return smem_u32(shared);
}

template <int count, class Word>
PCONV_DEV void put(const Job& job, const Word (&words)[count]) {
    for (int i = 0; i < count; ++i) {
        uint32_t bits;
        memcpy(&bits, &words[i], 4);
        job.output[threadIdx.x * words_per_lane + i] = bits;
    }
}

// ---- ldmatrix: every lane points to a row of its own, in an order that is no symmetry of the tiles

template <int tiles, bool transposed>
__global__ void ldmatrix_kernel(const Job job) {
    PCONV_DYN_SMEM(shared);
    const uint32_t address = fill_shared(job, shared) + (threadIdx.x * 13 + 5) % 64 * 16;
    uint32_t result[tiles];
    if constexpr (tiles == 4 && !transposed) ldmatrix_x4(result, address);
    if constexpr (tiles == 4 && transposed) ldmatrix_x4_trans(result, address);
    if constexpr (tiles == 2 && !transposed) ldmatrix_x2(result, address);
    if constexpr (tiles == 2 && transposed) ldmatrix_x2_trans(result, address);
    put(job, result);
}

// ---- mma.sync: registers straight from the input

enum class Element { bf16, f16, tf32 };

template <Element element>
__global__ void mma_kernel(const Job job) {
    const uint32_t* const own = job.input + threadIdx.x * words_per_lane;
    const uint32_t a[4] = {own[0], own[1], own[2], own[3]}, b[2] = {own[4], own[5]};
    float d[4] = {1.f + threadIdx.x, -2.f, 3.f, 0.f};
    if constexpr (element == Element::bf16) mma_bf16_16816(d, a, b);
    if constexpr (element == Element::f16) mma_f16_16816(d, a, b);
    if constexpr (element == Element::tf32) mma_tf32_1688(d, a, b);
    put(job, d);
}

// ---- cp.async: a third of the lanes has a false predicate

enum class Copy { ca_16, cg_16, ca_4 };

template <Copy copy>
__global__ void cp_async_kernel(const Job job) {
    PCONV_DYN_SMEM(shared);
    const int lane = threadIdx.x;
    fill_shared(job, shared);
    const uint32_t to = smem_u32(shared) + lane * 16;
    const uint32_t* const from = job.input + 512 + (lane * 7 % 32) * 4;
    if constexpr (copy == Copy::ca_16) cp_async_ca_16(to, from, lane % 3 != 0);
    if constexpr (copy == Copy::cg_16) cp_async_cg_16(to, from, lane % 3 != 0);
    if constexpr (copy == Copy::ca_4) cp_async_ca_4(to + lane % 4 * 4, from + lane % 3, lane % 3 != 0);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    const uint4 seen = reinterpret_cast<const uint4*>(shared)[31 - lane];
    const uint32_t words[4] = {seen.x, seen.y, seen.z, seen.w};
    put(job, words);
}

// ---- conversions: any fp32 bits (NaN only where the result is one and the same on every device)

__global__ void conversions_kernel(const Job job) {
    const uint32_t* const own = job.input + threadIdx.x * words_per_lane;
    uint32_t words[6];
    for (int i = 0; i < 2; ++i) {
        const float low = __uint_as_float(own[2 * i]), high = __uint_as_float(own[2 * i + 1]);
        words[3 * i] = pack_bf16x2(low, high);
        words[3 * i + 1] = pack_f16x2(low, high);
        words[3 * i + 2] = low == low ? to_tf32(low) : 0u;
    }
    put(job, words);
}

// ---- the input data

uint32_t counted(uint32_t i) { return (2 * i + 1) << 16 | 2 * i; }

uint32_t any_bits(uint32_t i) {
    const uint32_t special[] = {0, 0x80000000u, 0x7f800000u, 0xff800000u, 0x7fc00000u, 1, 0x007fffffu, 0x7f7fffffu};
    return i < 8 ? special[i] : scramble(i);
}

int small_integer(uint32_t i) { return int(scramble(i) % 17) - 8; }

// The bits of small integers in three formats. An integer of at most four bits is exact in all of them.
uint32_t as_fp32(uint32_t i) {
    const float value = float(small_integer(i));
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return bits;
}
uint32_t as_bf16_pair(uint32_t i) { return as_fp32(2 * i) >> 16 | (as_fp32(2 * i + 1) & 0xffff0000u); }
uint32_t half_bits(uint32_t fp32) {
    if ((fp32 & 0x7fffffffu) == 0) return fp32 >> 16;
    return (fp32 >> 16 & 0x8000u) | ((fp32 >> 23 & 0xffu) - 127 + 15) << 10 | (fp32 >> 13 & 0x3ffu);
}
uint32_t as_f16_pair(uint32_t i) { return half_bits(as_fp32(2 * i)) | half_bits(as_fp32(2 * i + 1)) << 16; }
uint32_t as_tf32_with_noise(uint32_t i) { return as_fp32(i) | (scramble(i) & 0x1fffu); }

// ---- one line of output

using Fill = uint32_t (*)(uint32_t);

// Output words [lanes, words] lie words_per_lane apart; only those that the wrapper wrote are printed.
bool report_wrapper(const char* wrapper, void (*kernel)(Job), Fill fill, int words) {
    Shared<uint32_t> input(input_words), output(lanes * words_per_lane);
    for (uint32_t i = 0; i < input_words; ++i) input[i] = fill(i);
    const Job job{input.to_device(), output.to_device()};
    const Status status = launch(wrapper, kernel, dim3(1), dim3(lanes), shared_bytes, cudaStream_t{}, job);
    if (!output.to_host(wrapper, status)) return false;
    for (int lane = 1; lane < lanes; ++lane)
        for (int i = 0; i < words; ++i) output[lane * words + i] = output[lane * words_per_lane + i];
    print_words(wrapper, output.host, lanes * words);
    return true;
}

int main() {
    bool fine = report_wrapper("ldmatrix_x4", ldmatrix_kernel<4, false>, counted, 4);
    fine = report_wrapper("ldmatrix_x4_trans", ldmatrix_kernel<4, true>, counted, 4) && fine;
    fine = report_wrapper("ldmatrix_x2", ldmatrix_kernel<2, false>, counted, 2) && fine;
    fine = report_wrapper("ldmatrix_x2_trans", ldmatrix_kernel<2, true>, counted, 2) && fine;
    fine = report_wrapper("mma_bf16_16816", mma_kernel<Element::bf16>, as_bf16_pair, 4) && fine;
    fine = report_wrapper("mma_f16_16816", mma_kernel<Element::f16>, as_f16_pair, 4) && fine;
    fine = report_wrapper("mma_tf32_1688", mma_kernel<Element::tf32>, as_tf32_with_noise, 4) && fine;
    fine = report_wrapper("cp_async_ca_16", cp_async_kernel<Copy::ca_16>, scramble, 4) && fine;
    fine = report_wrapper("cp_async_cg_16", cp_async_kernel<Copy::cg_16>, scramble, 4) && fine;
    fine = report_wrapper("cp_async_ca_4", cp_async_kernel<Copy::ca_4>, scramble, 4) && fine;
    fine = report_wrapper("pack_bf16x2 pack_f16x2 to_tf32", conversions_kernel, any_bits, 6) && fine;
    return fine ? 0 : 1;
}
