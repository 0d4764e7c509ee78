// Partial sums of the tensor cores' split kernels: added in order, finished, and laid out as torch wants them.
// Reads are the larger part and run along the channels; a square in shared memory turns them for NCHW results.
#include "../indexing.cuh"
#include "../kernels.h"
#include "../launch.cuh"
#include "../numeric.cuh"

namespace pconv::cuda {
namespace {

constexpr int square = 32;  // channels x (taps or pixels): a warp's width either way
constexpr int pitch = square + 1;
constexpr int threads = 256;
constexpr int warps = threads / warp_threads;
constexpr size_t square_bytes = square * pitch * sizeof(float);

// Four loads in flight: their order of arrival does not matter, the order of the additions stays.
PCONV_DEV float sum_of_splits(const float* partial, int64_t splits, int64_t step) {
    float sum = 0;
#pragma unroll 4
    for (int64_t split = 0; split < splits; ++split) sum += partial[split * step];
    return sum;
}

// ---- sums that stay where they are, or go to a weight gradient that lies as they do

struct SumArguments {
    const float* partial;  // [splits, K, R, S, channels]
    void* out;             // the sums: in place of the first split, or dw, whose channels are neighbours
    Strides strides;       // of dw
    int64_t size;          // elements of a split, a multiple of 4
    int splits, channels, taps, s;
};

template <class T>
struct alignas(4 * sizeof(T)) Four {
    T values[4];
};

PCONV_DEV float4 plus(float4 a, float4 b) { return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w); }

template <class T>
PCONV_DEV void store_sums(const SumArguments& a, int64_t at, float4 sum) {
    const int row = int(uint32_t(at) / uint32_t(a.channels)), channel = int(at) - row * a.channels, k = row / a.taps;
    const Position to{k, channel, (row - k * a.taps) / a.s, (row - k * a.taps) % a.s};
    T* const out = static_cast<T*>(a.out) + offset_of(a.strides, to);
    const Four<T> four{
        {Value<T>::store(sum.x), Value<T>::store(sum.y), Value<T>::store(sum.z), Value<T>::store(sum.w)}};
    // The half of a decoder's weight gradient that belongs to the skip may begin anywhere.
    if (reinterpret_cast<uintptr_t>(out) % sizeof four == 0) {
        *reinterpret_cast<Four<T>*>(out) = four;
    } else {
        for (int e = 0; e < 4; ++e) out[e] = four.values[e];
    }
}

// A warp has 128 neighbouring elements. With shares > 1 the block's warps have the same ones and a share of the splits
// each, which are then added in order: few elements and many splits fill a device too, and the bits stay the same.
template <class T, int shares, bool in_place>
__global__ void sum_splits_kernel(const SumArguments a) {
    PCONV_DYN_SMEM(shared);
    float4* const sums = reinterpret_cast<float4*>(shared);  // [shares][warp_threads]
    const int lane = int(threadIdx.x) % warp_threads, warp = int(threadIdx.x) / warp_threads;
    const int share = shares > 1 ? warp : 0;
    const int begin = a.splits * share / shares, end = a.splits * (share + 1) / shares;
    constexpr int block_elements = 4 * threads / shares;
    for (int64_t first = int64_t(blockIdx.x) * block_elements; first < a.size;
         first += int64_t(gridDim.x) * block_elements) {
        const int64_t at = first + 4 * (shares > 1 ? lane : int(threadIdx.x));
        float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
        if (at < a.size) {
            const float* const from = a.partial + at;
#pragma unroll 8
            for (int split = begin; split < end; ++split)
                sum = plus(sum, *reinterpret_cast<const float4*>(from + split * a.size));
        }
        if (shares > 1) {
            sums[share * warp_threads + lane] = sum;
            __syncthreads();
            if (share == 0)
                for (int other = 1; other < shares; ++other) sum = plus(sum, sums[other * warp_threads + lane]);
        }
        if (at < a.size && share == 0) {
            if (in_place)
                *reinterpret_cast<float4*>(static_cast<float*>(a.out) + at) = sum;
            else
                store_sums<T>(a, at, sum);
        }
        if (shares > 1) __syncthreads();  // before the next elements' sums take their place
    }
}

__global__ void mask_as_ratio_kernel(const uint8_t* mask, int64_t pixels, float* ratio) {
    for (int64_t item = first_item(); item < pixels; item += item_step())
        ratio[item] = mask == nullptr || mask[item] != 0 ? 1.f : 0.f;
}

constexpr int many_splits = 16;

template <class T, bool in_place>
Status launch_sums(const char* name, const SumArguments& a, cudaStream_t stream) {
    if (a.splits < many_splits)
        return launch(name, sum_splits_kernel<T, 1, in_place>, grid_for(a.size, 4 * threads), threads, 0, stream, a);
    return launch(
        name, sum_splits_kernel<T, warps, in_place>, grid_for(a.size, 4 * warp_threads), threads,
        warps * warp_threads * sizeof(float4), stream, a);
}

struct WgradArguments {
    Packing packing;
    Strides strides;
    const float* partial;  // [splits, K, R, S, start[blocks]]
    void* dw;              // [K, C, R, S]
    int64_t k, r, s, splits;
    bool channels_last;
};

template <class T>
__global__ void reduce_wgrad_kernel(const WgradArguments a) {
    PCONV_DYN_SMEM(shared);
    float* sums = reinterpret_cast<float*>(shared);  // [taps][pitch]
    const int lane = int(threadIdx.x) % warp_threads, warp = int(threadIdx.x) / warp_threads;
    const int64_t channels = packed_channels(a.packing), taps = a.r * a.s;
    const int64_t channel_tiles = ceil_div(channels, square), tap_tiles = ceil_div(taps, square);
    for (int64_t tile = blockIdx.x; tile < a.k * tap_tiles * channel_tiles; tile += gridDim.x) {
        const int64_t first_channel = tile % channel_tiles * square;
        const int64_t first_tap = tile / channel_tiles % tap_tiles * square, k = tile / channel_tiles / tap_tiles;
        const int tile_taps = int(taps - first_tap < square ? taps - first_tap : square);
        for (int tap = warp; tap < tile_taps; tap += warps)
            if (first_channel + lane < channels) {
                const int64_t at = (k * taps + first_tap + tap) * channels + first_channel + lane;
                sums[tap * pitch + lane] = sum_of_splits(a.partial + at, a.splits, a.k * taps * channels);
            }
        __syncthreads();
        for (int item = int(threadIdx.x); item < square * tile_taps; item += threads) {
            // In the order of dw's memory, whichever it is.
            const int channel = a.channels_last ? item % square : item / tile_taps;
            const int tap = a.channels_last ? item / square : item % tile_taps;
            if (first_channel + channel >= channels) continue;
            const int64_t to = source_channel(a.packing, first_channel + channel);
            if (to < 0) continue;
            const Position at{k, to, (first_tap + tap) / a.s, (first_tap + tap) % a.s};
            static_cast<T*>(a.dw)[offset_of(a.strides, at)] = Value<T>::store(sums[tap * pitch + channel]);
        }
        __syncthreads();  // before the next tile's sums take their place
    }
}

struct FinishArguments {
    Pixels pixels;
    Mask mask;
    const float* partial;  // [splits, N * H * W, channels]
    const float* ratio;    // [ratio_n, 1, H, W] or nullptr
    const void* bias;      // [channels] or nullptr
    void* out;             // [N, channels, H, W]
    int64_t channels, splits, ratio_n;
    float negative_slope;
    bool channels_last;
};

// fprop has a ratio and looks at no mask; dgrad has a mask and no ratio. Both select: a dead sum may be anything.
template <class T>
PCONV_DEV float finished(const FinishArguments& a, const PixelAt& at, int64_t channel, float sum) {
    if (a.ratio == nullptr) return is_valid(a.mask, at.n, channel, at.pixel) ? sum : 0.f;
    const float ratio = a.ratio[(a.ratio_n == 1 ? 0 : at.n) * a.pixels.plane + at.pixel];
    const float bias = a.bias == nullptr ? 0.f : Value<T>::load(static_cast<const T*>(a.bias)[channel]);
    return ratio > 0 ? activated(ratio * sum + bias, a.negative_slope) : 0.f;
}

template <class T>
__global__ void finish_splits_kernel(const FinishArguments a) {
    PCONV_DYN_SMEM(shared);
    float* sums = reinterpret_cast<float*>(shared);  // [pixels][pitch]
    const int lane = int(threadIdx.x) % warp_threads, warp = int(threadIdx.x) / warp_threads;
    const int64_t channel_tiles = ceil_div(a.channels, square), pixel_tiles = ceil_div(a.pixels.count, square);
    for (int64_t tile = blockIdx.x; tile < pixel_tiles * channel_tiles; tile += gridDim.x) {
        const int64_t first_channel = tile % channel_tiles * square, first_pixel = tile / channel_tiles * square;
#pragma unroll
        for (int row = warp; row < square; row += warps) {
            const int64_t at = (first_pixel + row) * a.channels + first_channel + lane;
            if (first_pixel + row < a.pixels.count && first_channel + lane < a.channels)
                sums[row * pitch + lane] = sum_of_splits(a.partial + at, a.splits, a.pixels.count * a.channels);
        }
        __syncthreads();
        for (int row = warp; row < square; row += warps) {
            const int channel = a.channels_last ? lane : row, pixel = a.channels_last ? row : lane;
            if (first_pixel + pixel >= a.pixels.count || first_channel + channel >= a.channels) continue;
            const PixelAt at = locate(a.pixels, first_pixel + pixel);
            const int64_t to = first_channel + channel;
            const float value = finished<T>(a, at, to, sums[pixel * pitch + channel]);
            static_cast<T*>(a.out)[at.offset + to * a.pixels.strides.at[1]] = Value<T>::store(value);
        }
        __syncthreads();  // before the next tile's sums take their place
    }
}

}  // namespace

Status sum_splits(float* partial, int64_t size, int64_t splits, cudaStream_t stream) {
    SumArguments a{};
    a.partial = partial, a.out = partial;
    a.size = size, a.splits = int(splits);
    return splits > 1 ? launch_sums<float, true>("sum_splits", a, stream) : Status{};
}

Status mask_as_ratio(const uint8_t* mask, int64_t pixels, float* ratio, cudaStream_t stream) {
    return launch(
        "mask_as_ratio", mask_as_ratio_kernel, grid_for(pixels, threads), threads, 0, stream, mask, pixels, ratio);
}

Status reduce_wgrad(
    DType dtype, int64_t k, int64_t c, int64_t r, int64_t s, const Packing& packing, int64_t splits, float* partial,
    void* dw, const Strides& dw_strides, cudaStream_t stream) {
    constexpr const char* name = "reduce_wgrad";
    if (packing.first[packing.blocks] != c) return Status{cudaErrorInvalidValue, name};
    const bool padded = packing.channels() != c;
    if (!padded && dw_strides.at[1] == 1) {
        const SumArguments a{partial, dw, dw_strides, k * r * s * c, int(splits), int(c), int(r * s), int(s)};
        return by_fast_type(
            dtype, name, [&](auto type) { return launch_sums<typename decltype(type)::type, false>(name, a, stream); });
    }
    const Status summed = sum_splits(partial, k * r * s * packing.channels(), splits, stream);
    if (!summed.ok()) return summed;
    splits = splits > 0 ? 1 : 0;  // none: an empty batch, whose gradient is zero
    const WgradArguments a{packing, dw_strides, partial, dw, k, r, s, splits, is_channels_last(dw_strides)};
    const dim3 grid = grid_for(k * ceil_div(r * s, square) * ceil_div(packing.channels(), square));
    return by_fast_type(dtype, name, [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(name, reduce_wgrad_kernel<T>, grid, threads, square_bytes, stream, a);
    });
}

Status finish_splits(
    DType dtype, int64_t n, int64_t channels, int64_t h, int64_t w, int64_t splits, const float* partial,
    const float* ratio, int64_t ratio_n, const void* bias, float negative_slope, const Mask& mask, void* out,
    const Strides& out_strides, cudaStream_t stream) {
    constexpr const char* name = "finish_splits";
    const FinishArguments a{
        pixels_of(n, h, w, out_strides), mask, partial, ratio, bias, out, channels, splits, ratio_n, negative_slope,
        is_channels_last(out_strides)};
    const dim3 grid = grid_for(ceil_div(a.pixels.count, square) * ceil_div(channels, square));
    return by_fast_type(dtype, name, [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(name, finish_splits_kernel<T>, grid, threads, square_bytes, stream, a);
    });
}

}  // namespace pconv::cuda
