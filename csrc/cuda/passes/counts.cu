// Masks as bytes, and what the windows over them hold. Integers throughout, so that no order of summation matters.
#include "../indexing.cuh"
#include "../kernels.h"
#include "../launch.cuh"
#include "../numeric.cuh"

namespace pconv::cuda {
namespace {

constexpr int threads = 256;

struct StridedMask {
    const void* values;  // [sizes]
    int64_t sizes[4];
    Strides strides;
    int64_t total;
};

// Dimensions that follow one another in memory become one, and unravel's divisions by 1 are then cheap.
StridedMask strided_mask(const void* mask, const int64_t sizes[4], const int64_t strides[4]) {
    StridedMask out{mask, {1, 1, 1, 1}, {{0, 0, 0, 0}}, sizes[0] * sizes[1] * sizes[2] * sizes[3]};
    int to = 3;
    out.sizes[3] = sizes[3];
    out.strides.at[3] = strides[3];
    for (int from = 2; from >= 0; --from) {
        if (sizes[from] == 1) continue;
        if (strides[from] == out.sizes[to] * out.strides.at[to]) {
            out.sizes[to] *= sizes[from];
        } else {
            --to;
            out.sizes[to] = sizes[from];
            out.strides.at[to] = strides[from];
        }
    }
    return out;
}

template <class T>
PCONV_DEV accumulator_t<T> mask_value(const StridedMask& mask, int64_t item) {
    const Position at = unravel(item, false, mask.sizes[1], mask.sizes[2], mask.sizes[3]);
    return Value<T>::load(static_cast<const T*>(mask.values)[offset_of(mask.strides, at)]);
}

// Valid is what is not zero; NaN is a hole.
template <class T>
__global__ void mask_to_bytes_kernel(const StridedMask mask, uint8_t* out) {
    for (int64_t item = first_item(); item < mask.total; item += item_step()) {
        const accumulator_t<T> value = mask_value<T>(mask, item);
        out[item] = value > 0 || value < 0;
    }
}

template <class T>
__global__ void count_not_binary_kernel(const StridedMask mask, unsigned long long* odd) {
    unsigned count = 0;
    for (int64_t item = first_item(); item < mask.total; item += item_step()) {
        const accumulator_t<T> value = mask_value<T>(mask, item);
        count += !(value == 0 || value == 1);
    }
    // One atomic a warp, and none for binary masks.
    for (int lane = warp_threads / 2; lane > 0; lane /= 2) count += __shfl_xor_sync(~0u, count, lane);
    if (threadIdx.x % warp_threads == 0 && count > 0) {
        atomicAdd(odd, static_cast<unsigned long long>(count));
    }
}

// How many input pixels one row of a window finds valid in one block of the mask. Outside the image is a hole.
PCONV_DEV int64_t valid_in_row(const WindowRatio& a, int64_t block, const Position& window, int64_t r) {
    const Geometry& g = a.g;
    const int64_t h = window.h * g.stride_h - g.pad_h + r * g.dil_h;
    if (h < 0 || h >= g.h) return 0;
    const int64_t left = window.w * g.stride_w - g.pad_w;
    int64_t valid = 0;
    for (int64_t s = 0; s < g.s; ++s) {
        const int64_t w = left + s * g.dil_w;
        if (w < 0 || w >= g.w) continue;
        const uint8_t* bytes = a.mask.bytes;
        valid += bytes == nullptr || bytes[window.n * a.mask.batch_step + block * a.mask.plane + h * g.w + w] != 0;
    }
    return valid;
}

// The channels of the window's group that lie in one block of the mask.
PCONV_DEV int64_t channels_in_block(const Mask& mask, int64_t block, int64_t from, int64_t to) {
    if (mask.blocks > 2) return 1;
    const int64_t first = block > 0 && mask.second > from ? mask.second : from;
    const int64_t last = block + 1 < mask.blocks && mask.second < to ? mask.second : to;
    return last > first ? last - first : 0;
}

constexpr int windows_per_block = warp_threads;
constexpr int slices = threads / windows_per_block;

// A lane is a window, a warp a slice of its rows in all blocks of the mask: a mask a channel gives thousands of rows.
template <class Real>
__global__ void window_ratio_kernel(const WindowRatio a) {
    PCONV_DYN_SMEM(shared);
    int64_t* counts = reinterpret_cast<int64_t*>(shared);  // [slices, windows_per_block]
    const Geometry& g = a.g;
    const int lane = int(threadIdx.x) % windows_per_block, slice = int(threadIdx.x) / windows_per_block;
    const int64_t total = a.ratio_n * a.ratio_groups * g.p * g.q, group_channels = g.c / g.groups;
    for (int64_t start = int64_t(blockIdx.x) * windows_per_block; start < total;
         start += int64_t(gridDim.x) * windows_per_block) {
        const int64_t item = start + lane;
        const Position window = unravel(item < total ? item : start, false, a.ratio_groups, g.p, g.q);
        const int64_t from = window.c * group_channels, to = from + group_channels;
        const bool per_channel = a.mask.blocks > 2;
        const int64_t block_begin = per_channel ? from : 0, blocks = per_channel ? group_channels : a.mask.blocks;
        int64_t count = 0;
        for (int64_t row = slice; row < blocks * g.r; row += slices) {
            const int64_t block = block_begin + row / g.r;
            const int64_t weight = channels_in_block(a.mask, block, from, to);
            if (weight > 0) count += weight * valid_in_row(a, block, window, row % g.r);
        }
        counts[slice * windows_per_block + lane] = count;
        __syncthreads();
        if (slice == 0 && item < total) {
            for (int other = 1; other < slices; ++other) count += counts[other * windows_per_block + lane];
            const int64_t full = group_channels * g.r * g.s;
            static_cast<Real*>(a.ratio)[item] = count > 0 ? Real(full) / Real(count) : Real(0);
            a.new_mask[item] = count > 0;
        }
        __syncthreads();  // before the next windows' counts take their place
    }
}

template <class Body>
Status by_mask_type(DType dtype, const char* name, const Body& body) {
    return dtype == DType::u8 ? body(Type<uint8_t>{}) : by_type(dtype, name, body);
}

}  // namespace

Status mask_to_bytes(
    const void* mask, DType dtype, const int64_t sizes[4], const int64_t strides[4], uint8_t* out,
    cudaStream_t stream) {
    constexpr const char* name = "mask_to_bytes";
    const StridedMask strided = strided_mask(mask, sizes, strides);
    return by_mask_type(dtype, name, [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            name, mask_to_bytes_kernel<T>, grid_for(strided.total, threads), threads, 0, stream, strided, out);
    });
}

Status count_not_binary(
    const void* mask, DType dtype, const int64_t sizes[4], const int64_t strides[4], unsigned long long* odd,
    cudaStream_t stream) {
    constexpr const char* name = "count_not_binary";
    const cudaError_t zeroed = cudaMemsetAsync(odd, 0, sizeof(*odd), stream);
    if (zeroed != cudaSuccess) return Status{zeroed, name};
    const StridedMask strided = strided_mask(mask, sizes, strides);
    return by_mask_type(dtype, name, [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            name, count_not_binary_kernel<T>, grid_for(strided.total, threads), threads, 0, stream, strided, odd);
    });
}

Status window_ratio(const WindowRatio& a, cudaStream_t stream) {
    constexpr const char* name = "window_ratio";
    const dim3 grid = grid_for(a.ratio_n * a.ratio_groups * a.g.p * a.g.q, windows_per_block);
    const size_t smem = threads * sizeof(int64_t);
    if (a.g.dtype == DType::f64) return launch(name, window_ratio_kernel<double>, grid, threads, smem, stream, a);
    return launch(name, window_ratio_kernel<float>, grid, threads, smem, stream, a);
}

}  // namespace pconv::cuda
