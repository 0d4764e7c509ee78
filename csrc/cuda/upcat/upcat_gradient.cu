// The decoder stage's backward beside the matrix products (run_stage_backward.cpp): low's filters, its weight gradient
// folded back, and the joined input's gradient taken apart.
//
// Small pixel p is seen by output rows 2 p - 1 ... 2 p + 2, so low's gradient is a 4x4 convolution of the scaled
// gradient with stride 2 and padding 1. Its row i is the place (a, y) of a phase (upcat_phases.cuh): an output row of
// parity a = 1 - i % 2 meets p as its place y = 1 - i / 2. Read from the weight's side: row r is part of i = 2 - r and
// i = 3 - r.
#include "../host/workspace.h"
#include "../indexing.cuh"
#include "../launch.cuh"
#include "../numeric.cuh"
#include "upcat.h"
#include "upcat_phases.cuh"

namespace pconv::cuda {
namespace {

constexpr int square = 32;  // filters x low channels: a warp's width either way
constexpr int pitch = square + 1;
constexpr int threads = 256;
constexpr int warps = threads / warp_threads;
constexpr size_t squares_bytes = 9 * square * pitch * sizeof(float);

struct WeightArguments {
    Strides strides;
    void* weight;  // [K, C, 3, 3], read or written
    void* other;   // low's filters, or the fp32 sums of their gradient: [Cu][4][4][k_padded]
    int64_t k, low_channels, k_padded;
};

// Which filter, channel and tap of a square an item is, in the order of the weight's memory.
struct SquareItem {
    int k, c, tap;
};
PCONV_DEV SquareItem square_item(const Strides& strides, int item) {
    if (strides.at[1] == 1) return {item / (9 * square), item % square, item / square % 9};
    return {item / (9 * square), item / 9 % square, item % 9};
}

PCONV_DEV float* place_in_squares(float* squares, int tap, int c, int k) {
    return squares + (tap * square + c) * pitch + k;
}

// By a block. Loads are issued a dozen at a time: one behind the other, each waited for by its own store, they took
// nine times as long as the bytes.
template <class T>
PCONV_DEV void read_squares(const WeightArguments& a, float* squares, int64_t first_k, int64_t first_c) {
    constexpr int together = 12;
    static_assert(9 * square * square % (together * threads) == 0, "whole rounds");
    for (int first = int(threadIdx.x); first < 9 * square * square; first += together * threads) {
        T values[together];
#pragma unroll
        for (int i = 0; i < together; ++i) {
            const SquareItem at = square_item(a.strides, first + i * threads);
            const int64_t k = first_k + at.k, c = first_c + at.c;
            const bool exists = k < a.k && c < a.low_channels;  // the padding's filters are zeros
            const Position from{k, c, at.tap / 3, at.tap % 3};
            values[i] = exists ? static_cast<const T*>(a.weight)[offset_of(a.strides, from)] : Value<T>::store(0);
        }
#pragma unroll
        for (int i = 0; i < together; ++i) {
            const SquareItem at = square_item(a.strides, first + i * threads);
            *place_in_squares(squares, at.tap, at.c, at.k) = Value<T>::load(values[i]);
        }
    }
}

// Grid: squares of filters x channels. Read along the weight's memory, summed and written along the filters.
template <class T>
__global__ void __launch_bounds__(threads) upcat_gradient_filters_kernel(const WeightArguments a) {
    PCONV_DYN_SMEM(shared);
    float* const squares = reinterpret_cast<float*>(shared);  // [tap][channel][filter]
    const int64_t k_tiles = ceil_div(a.k_padded, square), total = k_tiles * ceil_div(a.low_channels, square);
    const int lane = int(threadIdx.x) % warp_threads, warp = int(threadIdx.x) / warp_threads;
    for (int64_t tile = blockIdx.x; tile < total; tile += gridDim.x) {
        const int64_t first_k = tile % k_tiles * square, first_c = tile / k_tiles * square;
        read_squares<T>(a, squares, first_k, first_c);
        __syncthreads();
        for (int c = warp; c < square; c += warps) {
            if (first_c + c >= a.low_channels || first_k + lane >= a.k_padded) continue;
            T* const out = static_cast<T*>(a.other) + (first_c + c) * 16 * a.k_padded + first_k + lane;
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) {
                    const float sum = phase_sum<float>(1 - i % 2, 1 - j % 2, 1 - i / 2, 1 - j / 2, [&](int r, int s) {
                        return *place_in_squares(squares, r * 3 + s, c, lane);
                    });
                    out[(i * 4 + j) * a.k_padded] = Value<T>::store(sum);
                }
        }
        __syncthreads();  // the squares are filled again
    }
}

// The transpose: the 16 sums of a (channel, filter), folded to 9 and written along dw's memory.
template <class T>
__global__ void __launch_bounds__(threads) upcat_gradient_fold_kernel(const WeightArguments a) {
    PCONV_DYN_SMEM(shared);
    float* const squares = reinterpret_cast<float*>(shared);
    const int64_t k_tiles = ceil_div(a.k, square), total = k_tiles * ceil_div(a.low_channels, square);
    const int lane = int(threadIdx.x) % warp_threads, warp = int(threadIdx.x) / warp_threads;
    for (int64_t tile = blockIdx.x; tile < total; tile += gridDim.x) {
        const int64_t first_k = tile % k_tiles * square, first_c = tile / k_tiles * square;
        for (int c = warp; c < square; c += warps) {
            if (first_c + c >= a.low_channels || first_k + lane >= a.k) continue;
            const float* const given =
                static_cast<const float*>(a.other) + (first_c + c) * 16 * a.k_padded + first_k + lane;
            float sums[16];
#pragma unroll
            for (int tap = 0; tap < 16; ++tap) sums[tap] = given[tap * a.k_padded];
#pragma unroll
            for (int tap = 0; tap < 9; ++tap) {
                const int i = 2 - tap / 3, j = 2 - tap % 3;
                *place_in_squares(squares, tap, c, lane) =
                    sums[i * 4 + j] + sums[i * 4 + j + 1] + (sums[i * 4 + j + 4] + sums[i * 4 + j + 5]);
            }
        }
        __syncthreads();
        for (int item = int(threadIdx.x); item < 9 * square * square; item += threads) {
            const SquareItem at = square_item(a.strides, item);
            const int64_t k = first_k + at.k, c = first_c + at.c;
            if (k >= a.k || c >= a.low_channels) continue;
            const Position to{k, c, at.tap / 3, at.tap % 3};
            static_cast<T*>(a.weight)[offset_of(a.strides, to)] =
                Value<T>::store(*place_in_squares(squares, at.tap, at.c, at.k));
        }
        __syncthreads();
    }
}

struct PartArguments {
    const void* joined;  // [N, Cu + Cs, H, W]
    void *low, *skip;
    Strides joined_strides, low_strides, skip_strides;
    int64_t n, low_channels, skip_channels, h, w;  // h, w: of the small grid
    bool channels_last;
};

// Four output pixels over each small one, added in the Accumulator in a fixed order.
template <class T>
__global__ void upcat_part_low_kernel(const PartArguments a) {
    const T* const joined = static_cast<const T*>(a.joined);
    for (int64_t item = first_item(); item < a.n * a.low_channels * a.h * a.w; item += item_step()) {
        const Position at = unravel(item, a.channels_last, a.low_channels, a.h, a.w);
        accumulator_t<T> sum = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const Position from{at.n, at.c, 2 * at.h + i / 2, 2 * at.w + i % 2};
            sum += Value<T>::load(joined[offset_of(a.joined_strides, from)]);
        }
        static_cast<T*>(a.low)[offset_of(a.low_strides, at)] = Value<T>::store(sum);
    }
}

template <class T>
__global__ void upcat_part_skip_kernel(const PartArguments a) {
    for (int64_t item = first_item(); item < a.n * a.skip_channels * 4 * a.h * a.w; item += item_step()) {
        const Position at = unravel(item, a.channels_last, a.skip_channels, 2 * a.h, 2 * a.w);
        const Position from{at.n, at.c + a.low_channels, at.h, at.w};
        static_cast<T*>(a.skip)[offset_of(a.skip_strides, at)] =
            static_cast<const T*>(a.joined)[offset_of(a.joined_strides, from)];
    }
}

dim3 grid_of_squares(int64_t filters, int64_t channels) {
    return grid_for(ceil_div(filters, square) * ceil_div(channels, square));
}

}  // namespace

Status upcat_gradient_filters(
    DType dtype, int64_t k, int64_t low_channels, int64_t k_padded, const void* weight, const Strides& weight_strides,
    void* filters, cudaStream_t stream) {
    constexpr const char* name = "upcat_gradient_filters";
    const WeightArguments a{weight_strides, const_cast<void*>(weight), filters, k, low_channels, k_padded};
    return by_fast_type(dtype, name, [&](auto type) {
        return launch(
            name, upcat_gradient_filters_kernel<typename decltype(type)::type>, grid_of_squares(k_padded, low_channels),
            threads, squares_bytes, stream, a);
    });
}

Status upcat_gradient_fold(
    DType dtype, int64_t k, int64_t low_channels, int64_t k_padded, const float* sums, void* dw,
    const Strides& dw_strides, cudaStream_t stream) {
    constexpr const char* name = "upcat_gradient_fold";
    const WeightArguments a{dw_strides, dw, const_cast<float*>(sums), k, low_channels, k_padded};
    return by_fast_type(dtype, name, [&](auto type) {
        return launch(
            name, upcat_gradient_fold_kernel<typename decltype(type)::type>, grid_of_squares(k, low_channels), threads,
            squares_bytes, stream, a);
    });
}

Status upcat_part(const Layer& stage, const void* joined, void* dlow, void* dskip, cudaStream_t stream) {
    constexpr const char* name = "upcat_part";
    const Geometry& g = stage.geometry;
    const int64_t low = stage.low_channels, skip = g.c - low, h = g.h / 2, w = g.w / 2;
    PartArguments a{};
    a.joined = joined, a.low = dlow, a.skip = dskip;
    a.joined_strides = dense(g.layout, g.c, g.h, g.w);
    a.low_strides = dense(g.layout, low, h, w);
    a.skip_strides = dense(g.layout, skip, g.h, g.w);
    a.n = g.n, a.low_channels = low, a.skip_channels = skip, a.h = h, a.w = w;
    a.channels_last = g.layout == Layout::nhwc;
    return by_type(g.dtype, name, [&](auto type) {
        using T = typename decltype(type)::type;
        Status status;
        if (dlow)
            status =
                launch(name, upcat_part_low_kernel<T>, grid_for(g.n * low * h * w, threads), threads, 0, stream, a);
        if (status.ok() && dskip)
            status = launch(
                name, upcat_part_skip_kernel<T>, grid_for(g.n * skip * g.h * g.w, threads), threads, 0, stream, a);
        return status;
    });
}

}  // namespace pconv::cuda
