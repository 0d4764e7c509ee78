// Into the packed form: channels_last, each block of channels padded with zeros to 16 bytes. Data moves unchanged, so
// everything here is compiled by the element's size.
#include "../kernels.h"
#include "../launch.cuh"
#include "../numeric.cuh"
#include "vector_tile.cuh"

namespace pconv::cuda {
namespace {

inline bool starts_in_vectors(const Packing& packing, int element_bytes) {
    for (int b = 0; b < packing.blocks; ++b)
        if (packing.first[b] * element_bytes % vector_bytes != 0) return false;
    return true;
}

struct ActivationArguments {
    Pixels pixels;
    Packing packing;
    Mask mask;
    TilePlan plan;
    const void* x;  // [N, C, H, W]
    void* packed;   // [N, H, W, start[blocks]]
    bool channels_last, in_vectors;
};

template <class Raw>
PCONV_DEV Raw masked_element(const ActivationArguments& a, const PixelAt& at, int64_t packed) {
    const int64_t channel = source_channel(a.packing, packed);
    if (channel < 0 || !is_valid(a.mask, at.n, channel, at.pixel)) return Raw(0);
    return static_cast<const Raw*>(a.x)[at.offset + channel * a.pixels.strides.at[1]];
}

// A vector out of a channels_last source: whole where it may be, element by element at a block's ragged end.
template <class Raw>
PCONV_DEV Vector<Raw> masked_vector(const ActivationArguments& a, const PixelAt& at, int64_t packed) {
    constexpr int size = Vector<Raw>::size;
    const int64_t channel = source_channel(a.packing, packed);
    const bool whole = source_channel(a.packing, packed + size - 1) >= 0;
    Vector<Raw> out;
    if (a.in_vectors && whole) {
        out = *reinterpret_cast<const Vector<Raw>*>(static_cast<const Raw*>(a.x) + at.offset + channel);
        if (a.mask.bytes != nullptr) {
#pragma unroll
            for (int i = 0; i < size; ++i)
                if (!is_valid(a.mask, at.n, channel + i, at.pixel)) out.at[i] = Raw(0);
        }
    } else {
#pragma unroll
        for (int i = 0; i < size; ++i) out.at[i] = masked_element<Raw>(a, at, packed + i);
    }
    return out;
}

template <class Raw>
__global__ void pack_activation_kernel(const ActivationArguments a) {
    PCONV_DYN_SMEM(shared);
    Raw* staged = reinterpret_cast<Raw*>(shared);
    constexpr int size = Vector<Raw>::size;
    const TilePlan& plan = a.plan;
    for (int64_t tile = blockIdx.x; tile < plan.channel_tiles * plan.pixel_tiles; tile += gridDim.x) {
        const int64_t first_vector = tile % plan.channel_tiles << plan.vectors_log2;
        const int64_t first_pixel = tile / plan.channel_tiles << plan.pixels_log2;
        if (!a.channels_last) {
            __syncthreads();  // the tile before this one has been read
            stage_tile(staged, plan, a.pixels, first_pixel, [&](const PixelAt& at, int row) {
                const int64_t packed = first_vector * size + row;
                return packed < plan.packed_vectors * size ? masked_element<Raw>(a, at, packed) : Raw(0);
            });
            __syncthreads();
        }
        for (int slot = int(threadIdx.x); slot < tile_slots; slot += tile_threads) {
            const int vector = slot & ((1 << plan.vectors_log2) - 1), pixel = slot >> plan.vectors_log2;
            const int64_t number = first_pixel + pixel, at_vector = first_vector + vector;
            if (number >= a.pixels.count || at_vector >= plan.packed_vectors) continue;
            static_cast<Vector<Raw>*>(a.packed)[number * plan.packed_vectors + at_vector] =
                a.channels_last ? masked_vector<Raw>(a, locate(a.pixels, number), at_vector * size)
                                : staged_vector(staged, plan, vector, pixel);
        }
    }
}

struct WeightArguments {
    Packing packing;
    Strides strides;
    const void* weight;  // [K, C, R, S]
    void* packed;        // [K, R, S, start[blocks]], transposed: [C, R, S, k_padded]
    int64_t k, c, r, s, k_padded;
};

// Filters whose channels lie side by side, 16 bytes at a time: a division costs more than a load, and this has one for
// each of eight channels.
template <class Raw>
__global__ void pack_weight_vectors_kernel(const WeightArguments a) {
    using Own = Vector<Raw>;
    const int64_t channels = packed_channels(a.packing), vectors = channels / Own::size;
    for (int64_t item = first_item(); item < a.k * a.r * a.s * vectors; item += item_step()) {
        Position at = unravel(item, true, vectors, a.r, a.s);
        at.c = at.c * Own::size + a.packing.first[0];
        static_cast<Own*>(a.packed)[item] =
            *reinterpret_cast<const Own*>(static_cast<const Raw*>(a.weight) + offset_of(a.strides, at));
    }
}

template <class Raw>
__global__ void pack_weight_kernel(const WeightArguments a) {
    const int64_t channels = packed_channels(a.packing), total = a.k * a.r * a.s * channels;
    for (int64_t item = first_item(); item < total; item += item_step()) {
        Position at = unravel(item, true, channels, a.r, a.s);
        at.c = source_channel(a.packing, at.c);
        static_cast<Raw*>(a.packed)[item] =
            at.c < 0 ? Raw(0) : static_cast<const Raw*>(a.weight)[offset_of(a.strides, at)];
    }
}

constexpr int square = 32;  // a warp's width; its shared copy has rows one longer, so that columns lie in all banks

// K x (C R S) turned into (C R S) x K, square by square. Columns are numbered as they lie in memory.
template <class Raw>
__global__ void transpose_weight_kernel(const WeightArguments a) {
    PCONV_DYN_SMEM(shared);
    Raw* staged = reinterpret_cast<Raw*>(shared);  // [square rows of K][square columns + 1]
    const int lane = int(threadIdx.x) % square, warp = int(threadIdx.x) / square;
    const int warps = tile_threads / square;
    const int64_t taps = a.r * a.s, columns = a.c * taps;
    const int64_t k_tiles = ceil_div(a.k_padded, square), total = k_tiles * ceil_div(columns, square);
    const bool channels_first = a.strides.at[1] != 1 || taps == 1;
    for (int64_t tile = blockIdx.x; tile < total; tile += gridDim.x) {
        const int64_t first_k = tile % k_tiles * square, first_column = tile / k_tiles * square;
        const int64_t column = first_column + lane;
        const int64_t channel = channels_first ? column / taps : column % a.c;
        const int64_t tap = channels_first ? column % taps : column / a.c;
        const Raw* source = static_cast<const Raw*>(a.weight) + channel * a.strides.at[1] +
                            tap / a.s * a.strides.at[2] + tap % a.s * a.strides.at[3];
        for (int row = warp; row < square; row += warps) {
            const int64_t k = first_k + row;
            const bool inside = column < columns && k < a.k;
            staged[row * (square + 1) + lane] = inside ? source[k * a.strides.at[0]] : Raw(0);
        }
        __syncthreads();
        for (int row = warp; row < square; row += warps) {
            const int64_t out_column = first_column + row, k = first_k + lane;
            if (out_column >= columns || k >= a.k_padded) continue;
            const int64_t at = channels_first ? out_column : out_column % a.c * taps + out_column / a.c;
            static_cast<Raw*>(a.packed)[at * a.k_padded + k] = staged[lane * (square + 1) + row];
        }
        __syncthreads();  // before the next square takes this one's place
    }
}

}  // namespace

Status pack_activation(
    DType dtype, int64_t n, int64_t c, int64_t h, int64_t w, const Packing& packing, const Mask& mask, const void* x,
    const Strides& x_strides, void* packed, cudaStream_t stream) {
    constexpr const char* name = "pack_activation";
    const int bytes = int(bytes_of(dtype)), channels = packing.channels();
    const bool aligned =
        reinterpret_cast<uintptr_t>(packed) % vector_bytes == 0 && channels * bytes % vector_bytes == 0;
    if (!aligned || packing.first[packing.blocks] != c) return Status{cudaErrorInvalidValue, name};
    ActivationArguments a{pixels_of(n, h, w, x_strides), packing, mask, {}, x, packed, false, false};
    a.channels_last = is_channels_last(x_strides);
    a.in_vectors = reads_in_vectors(x, x_strides, bytes) && starts_in_vectors(packing, bytes);
    return by_element_size(dtype, name, [&](auto type) {
        using Raw = typename decltype(type)::type;
        const int64_t vectors = channels / Vector<Raw>::size;
        a.plan = plan_tiles(a.pixels.count, vectors, Vector<Raw>::size, a.channels_last);
        const size_t smem = a.channels_last ? 0 : staged_bytes(a.plan, bytes);
        const dim3 grid = grid_for(a.plan.channel_tiles * a.plan.pixel_tiles);
        return launch(name, pack_activation_kernel<Raw>, grid, tile_threads, smem, stream, a);
    });
}

Status pack_weight(
    DType dtype, int64_t k, int64_t c, int64_t r, int64_t s, const Packing& packing, bool transposed, int64_t k_padded,
    const void* weight, const Strides& w_strides, void* packed, cudaStream_t stream) {
    const char* const name = transposed ? "pack_weight (transposed)" : "pack_weight";
    const WeightArguments a{packing, w_strides, weight, packed, k, c, r, s, k_padded};
    return by_element_size(dtype, name, [&](auto type) {
        using Raw = typename decltype(type)::type;
        if (transposed) {
            const dim3 grid = grid_for(ceil_div(k_padded, square) * ceil_div(c * r * s, square));
            const size_t smem = square * (square + 1) * sizeof(Raw);
            return launch(name, transpose_weight_kernel<Raw>, grid, tile_threads, smem, stream, a);
        }
        const int bytes = int(sizeof(Raw)), channels = packing.channels();
        const bool padded = channels != packing.first[packing.blocks] - packing.first[0];
        const bool aligned = reinterpret_cast<uintptr_t>(packed) % vector_bytes == 0 &&
                             starts_in_vectors(packing, bytes) && reads_in_vectors(weight, w_strides, bytes);
        if (!padded && aligned) {
            const dim3 grid = grid_for(k * r * s * (channels / Vector<Raw>::size), tile_threads);
            return launch(name, pack_weight_vectors_kernel<Raw>, grid, tile_threads, 0, stream, a);
        }
        const dim3 grid = grid_for(k * r * s * packing.channels(), tile_threads);
        return launch(name, pack_weight_kernel<Raw>, grid, tile_threads, 0, stream, a);
    });
}

}  // namespace pconv::cuda
