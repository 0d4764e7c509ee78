// One pass over the gradient g = dL/dy, [N, K, P, Q] in NCHW or channels_last:
//
//   scaled = ratio > 0 ? ratio * g : 0    [N, P, Q, k_padded], channels_last, zeros in the padding
//   db[k]  = sum of g where ratio > 0
//
// The sum is cut into pieces of pixels that only the geometry decides. Within a piece threads, lanes and warps form
// a tree; the pieces are then added in order, in double, since there may be a thousand of them.
#include "../kernels.h"
#include "../launch.cuh"
#include "../numeric.cuh"
#include "vector_tile.cuh"

namespace pconv::cuda {
namespace {

// About one wave of blocks on the largest devices. Emulated: few, so that small shapes have pieces of many tiles.
#ifdef PCONV_EMULATE
constexpr int64_t wanted_blocks = 4;
#else
constexpr int64_t wanted_blocks = 1024;
#endif
constexpr int tile_warps = tile_threads / warp_threads;

struct Pieces {
    int64_t count, tiles;  // tiles of pixels in each, fewer in the last
};

inline Pieces cut(const TilePlan& plan) {
    const int64_t wanted = wanted_blocks > plan.channel_tiles ? wanted_blocks / plan.channel_tiles : 1;
    const int64_t tiles = plan.pixel_tiles > wanted ? ceil_div(plan.pixel_tiles, wanted) : 1;
    return {ceil_div(plan.pixel_tiles, tiles), tiles};
}

struct ScaleArguments {
    Pixels pixels;
    TilePlan plan;
    Pieces pieces;
    const void* grad;   // [N, K, P, Q]
    const void* ratio;  // [ratio_n, ratio_groups, P, Q]
    void* scaled;       // [N, P, Q, packed_vectors] vectors, or nullptr
    void* partial;      // [pieces, K], or nullptr where no db is wanted
    int64_t k, ratio_n, ratio_groups;
    bool channels_last, in_vectors;
    bool by_number;  // a pixel's running number says where its gradient and its ratio are
};

// Without divisions where it can be, which took longer than the memory.
PCONV_DEV PixelAt place_of(const ScaleArguments& a, int64_t number) {
    if (a.by_number) return {0, number, number * a.pixels.strides.at[3]};
    return locate(a.pixels, number);
}

template <class T>
PCONV_DEV Vector<T> gradient_vector(const ScaleArguments& a, const PixelAt& at, int64_t channel) {
    constexpr int size = Vector<T>::size;
    const T* grad = static_cast<const T*>(a.grad) + at.offset;
    if (a.in_vectors && channel + size <= a.k) return *reinterpret_cast<const Vector<T>*>(grad + channel);
    Vector<T> out;
#pragma unroll
    for (int i = 0; i < size; ++i)
        out.at[i] = channel + i < a.k ? grad[(channel + i) * a.pixels.strides.at[1]] : Value<T>::store(0);
    return out;
}

template <class T>
PCONV_DEV accumulator_t<T> ratio_at(const ScaleArguments& a, const PixelAt& at, int64_t channel) {
    const int64_t image = a.ratio_n == 1 ? 0 : at.n;
    const int64_t group = a.ratio_groups == 1 || channel >= a.k ? 0 : channel / (a.k / a.ratio_groups);
    const int64_t plane = image * a.ratio_groups + group;
    return static_cast<const accumulator_t<T>*>(a.ratio)[plane * a.pixels.plane + at.pixel];
}

// Scales one vector in place and adds its live elements to sums. Selects: g may be anything in a dead window.
template <class T>
PCONV_DEV void scale_vector(
    const ScaleArguments& a, const PixelAt& at, int64_t channel, Vector<T>& vector, accumulator_t<T>* sums) {
    accumulator_t<T> ratio = ratio_at<T>(a, at, channel);
#pragma unroll
    for (int i = 0; i < Vector<T>::size; ++i) {
        if (i > 0 && a.ratio_groups > 1) ratio = ratio_at<T>(a, at, channel + i);
        const accumulator_t<T> grad = Value<T>::load(vector.at[i]);
        const bool live = ratio > 0;
        if (live) sums[i] += grad;
        vector.at[i] = Value<T>::store(live ? ratio * grad : accumulator_t<T>(0));
    }
}

template <class T>
PCONV_DEV void scale_tile(
    const ScaleArguments& a, const T* staged, int64_t first_vector, int64_t first_pixel, accumulator_t<T>* sums) {
    const TilePlan& plan = a.plan;
#pragma unroll
    for (int slot = int(threadIdx.x); slot < tile_slots; slot += tile_threads) {
        const int vector = slot & ((1 << plan.vectors_log2) - 1), pixel = slot >> plan.vectors_log2;
        const int64_t number = first_pixel + pixel, at_vector = first_vector + vector;
        if (number >= a.pixels.count || at_vector >= plan.packed_vectors) continue;
        const PixelAt at = place_of(a, number);
        const int64_t channel = at_vector * Vector<T>::size;
        Vector<T> values =
            a.channels_last ? gradient_vector<T>(a, at, channel) : staged_vector(staged, plan, vector, pixel);
        scale_vector(a, at, channel, values, sums);
        if (a.scaled != nullptr) static_cast<Vector<T>*>(a.scaled)[number * plan.packed_vectors + at_vector] = values;
    }
}

// Both slots of a thread are the same vector of different pixels, so its sums are of fixed channels. Lanes that
// share a vector lie 1 << vectors_log2 apart.
template <class T>
PCONV_DEV void write_partial_sums(
    const ScaleArguments& a, int64_t piece, int64_t first_vector, accumulator_t<T>* sums, accumulator_t<T>* by_warp) {
    constexpr int size = Vector<T>::size;
    const int vectors = 1 << a.plan.vectors_log2, lane = int(threadIdx.x) % warp_threads;
#pragma unroll
    for (int i = 0; i < size; ++i)
        for (int step = warp_threads / 2; step >= vectors; step /= 2) sums[i] += __shfl_xor_sync(~0u, sums[i], step);
    if (lane < vectors)
        for (int i = 0; i < size; ++i) by_warp[(int(threadIdx.x) / warp_threads * vectors + lane) * size + i] = sums[i];
    __syncthreads();
    for (int column = int(threadIdx.x); column < vectors * size; column += tile_threads) {
        const int64_t channel = first_vector * size + column;
        if (channel >= a.k) continue;
        accumulator_t<T> sum = 0;
        for (int warp = 0; warp < tile_warps; ++warp) sum += by_warp[warp * vectors * size + column];
        static_cast<accumulator_t<T>*>(a.partial)[piece * a.k + channel] = sum;
    }
}

template <class T>
__global__ void scale_gradient_kernel(const ScaleArguments a) {
    PCONV_DYN_SMEM(shared);
    // The staged tile and the warps' sums lie one behind the other; of a channels_last source there is no tile.
    using Sum = accumulator_t<T>;
    Sum* by_warp = reinterpret_cast<Sum*>(shared);
    constexpr int size = Vector<T>::size;
    const TilePlan& plan = a.plan;
    T* staged = reinterpret_cast<T*>(by_warp + (tile_warps * size << plan.vectors_log2));
    const int64_t first_vector = int64_t(blockIdx.x) % plan.channel_tiles << plan.vectors_log2;
    const int64_t piece = int64_t(blockIdx.x) / plan.channel_tiles;
    Sum sums[size] = {};
    for (int64_t i = 0; i < a.pieces.tiles; ++i) {
        const int64_t first_pixel = (piece * a.pieces.tiles + i) << plan.pixels_log2;
        if (first_pixel >= a.pixels.count) break;  // the same for the whole block
        if (!a.channels_last) {
            __syncthreads();  // the tile before this one has been read
            const T* grad = static_cast<const T*>(a.grad);
            stage_tile(staged, plan, a.pixels, first_pixel, [&](const PixelAt& at, int row) {
                const int64_t channel = first_vector * size + row;
                return channel < a.k ? grad[at.offset + channel * a.pixels.strides.at[1]] : Value<T>::store(0);
            });
            __syncthreads();
        }
        scale_tile(a, staged, first_vector, first_pixel, sums);
    }
    if (a.partial != nullptr) write_partial_sums<T>(a, piece, first_vector, sums, by_warp);
}

// A warp's width of slices for each of a few channels: a thousand pieces are then some thirty steps, not a thousand.
constexpr int slices = 32;
constexpr int channels_per_block = tile_threads / slices;

struct SumArguments {
    const void* partial;  // [pieces, K]
    void* db;             // [K]
    int64_t k, pieces;
};

template <class T>
__global__ void sum_pieces_kernel(const SumArguments a) {
    PCONV_DYN_SMEM(shared);
    double* sums = reinterpret_cast<double*>(shared);  // [slices, channels_per_block]
    const int column = int(threadIdx.x) % channels_per_block, slice = int(threadIdx.x) / channels_per_block;
    const int64_t channel = int64_t(blockIdx.x) * channels_per_block + column;
    const accumulator_t<T>* partial = static_cast<const accumulator_t<T>*>(a.partial);
    double sum = 0;
    if (channel < a.k) {
#pragma unroll 4
        for (int64_t piece = slice; piece < a.pieces; piece += slices) sum += double(partial[piece * a.k + channel]);
    }
    sums[slice * channels_per_block + column] = sum;
    __syncthreads();
    if (slice != 0 || channel >= a.k) return;
    for (int other = 1; other < slices; ++other) sum += sums[other * channels_per_block + column];
    static_cast<T*>(a.db)[channel] = Value<T>::store(accumulator_t<T>(sum));
}

// From K alone, not from its padding: the pieces, and with them db's bits and the workspace, are then the same however
// much padding there is.
inline TilePlan plan_for(const Geometry& g, bool channels_last) {
    const int vector_size = vector_bytes / int(bytes_of(g.dtype));
    return plan_tiles(g.n * g.p * g.q, ceil_div(g.k, vector_size), vector_size, channels_last);
}

inline TilePlan with_padding(TilePlan plan, int64_t packed_vectors) {
    plan.packed_vectors = packed_vectors;
    plan.channel_tiles = ceil_div(packed_vectors, int64_t(1) << plan.vectors_log2);
    return plan;
}

}  // namespace

// The layout is known only when the gradient is there, so that the larger of the two needs counts.
int64_t scale_gradient_workspace(const Geometry& g) {
    if (bytes_of(g.dtype) < 2) return 0;
    const int64_t last = cut(plan_for(g, true)).count, first = cut(plan_for(g, false)).count;
    return (last > first ? last : first) * g.k * (g.dtype == DType::f64 ? 8 : 4);
}

Status scale_gradient(
    const Geometry& g, const void* grad, const Strides& grad_strides, const void* ratio, int64_t ratio_n,
    int64_t ratio_groups, int64_t k_padded, void* scaled, void* db, void* workspace, cudaStream_t stream) {
    constexpr const char* name = "scale_gradient";
    const int bytes = int(bytes_of(g.dtype));
    const bool aligned =
        reinterpret_cast<uintptr_t>(scaled) % vector_bytes == 0 && k_padded * bytes % vector_bytes == 0;
    if (scaled != nullptr && (!aligned || k_padded < g.k)) return Status{cudaErrorInvalidValue, name};
    if (g.k == 0 || (scaled == nullptr && db == nullptr)) return Status{};
    ScaleArguments a{};
    a.pixels = pixels_of(g.n, g.p, g.q, grad_strides);
    a.channels_last = is_channels_last(grad_strides);
    a.in_vectors = reads_in_vectors(grad, grad_strides, bytes);
    a.grad = grad;
    a.ratio = ratio;
    a.scaled = scaled;
    a.partial = db == nullptr ? nullptr : workspace;
    a.k = g.k;
    a.ratio_n = ratio_n;
    a.ratio_groups = ratio_groups;
    const bool dense = a.pixels.width == a.pixels.plane && grad_strides.at[0] == a.pixels.plane * grad_strides.at[3];
    a.by_number = dense && ratio_groups == 1 && (ratio_n == g.n || g.n == 1);
    return by_type(g.dtype, name, [&](auto type) {
        using T = typename decltype(type)::type;
        using Sum = accumulator_t<T>;
        a.plan = plan_for(g, a.channels_last);
        a.pieces = cut(a.plan);
        if (scaled != nullptr) a.plan = with_padding(a.plan, k_padded / Vector<T>::size);
        const size_t sums = (size_t(tile_warps) * Vector<T>::size << a.plan.vectors_log2) * sizeof(Sum);
        const size_t smem = sums + (a.channels_last ? 0 : staged_bytes(a.plan, bytes));
        const dim3 grid(unsigned(a.pieces.count * a.plan.channel_tiles));
        const Status done = launch(name, scale_gradient_kernel<T>, grid, tile_threads, smem, stream, a);
        if (!done.ok() || db == nullptr) return done;
        // Without a pixel there is no piece, and this alone sets db, to zeros.
        const SumArguments b{workspace, db, g.k, a.pieces.count};
        return launch(
            "scale_gradient (db)", sum_pieces_kernel<T>, dim3(unsigned(ceil_div(g.k, channels_per_block))),
            tile_threads, tile_threads * sizeof(double), stream, b);
    });
}

}  // namespace pconv::cuda
