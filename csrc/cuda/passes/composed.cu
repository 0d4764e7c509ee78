// The passes around a library's convolution, for what the fused kernels do not take: any dtype, layout, groups and kind
// of mask, 64-bit offsets. Bound by bytes: 16 of them a thread where the layout permits.
#include "../indexing.cuh"
#include "../launch.cuh"
#include "../numeric.cuh"
#include "vector_tile.cuh"

namespace pconv::cuda {
namespace {

constexpr int threads = 256;

// Tensors of fewer than 2^31 values are the rule, and 32-bit divisions a fifth of the work.
PCONV_DEV int64_t divide(int64_t a, int64_t b) {
    return (a | b) >> 31 != 0 ? a / b : int64_t(uint32_t(a) / uint32_t(b));
}

struct Place {
    int64_t n, c, pixel;
};

// Of a tensor's value, counted in the order of its memory.
PCONV_DEV Place place_of(int64_t value, bool nhwc, int64_t channels, int64_t plane) {
    const int64_t inner = nhwc ? channels : plane, outer = nhwc ? plane : channels;
    const int64_t row = divide(value, inner), n = divide(row, outer);
    const int64_t along = value - row * inner, across = row - n * outer;
    return {n, nhwc ? along : across, nhwc ? across : along};
}

// `size` neighbouring values of a tensor: channels of a pixel, or pixels of a plane.
template <class Raw, int size>
struct alignas(size * sizeof(Raw)) Neighbours {
    Raw at[size];
};

// out = m ? x : 0. In place (out == x) valid values are neither read nor written.
template <class Raw, int size>
__global__ void masked_copy_kernel(const MaskedCopy a) {
    const bool nhwc = a.g.layout == Layout::nhwc, in_place = a.x == a.out;
    const int64_t plane = a.g.h * a.g.w, total = a.g.n * a.g.c * plane / size;
    const auto* const x = static_cast<const Neighbours<Raw, size>*>(a.x);
    auto* const out = static_cast<Neighbours<Raw, size>*>(a.out);
    for (int64_t item = first_item(); item < total; item += item_step()) {
        const Place at = place_of(item * size, nhwc, a.g.c, plane);
        bool valid[size], all = true;
#pragma unroll
        for (int i = 0; i < size; ++i) {
            valid[i] = is_valid(a.mask, at.n, at.c + (nhwc ? i : 0), at.pixel + (nhwc ? 0 : i));
            all = all && valid[i];
        }
        if (in_place && all) continue;
        Neighbours<Raw, size> values = x[item];
#pragma unroll
        for (int i = 0; i < size; ++i)
            if (!valid[i]) values.at[i] = Raw(0);
        out[item] = values;
    }
}

// y = ratio > 0 ? activation of (ratio * y + bias) : 0, in place, rounded once.
template <class T, int size>
__global__ void renormalise_kernel(const Renormalise a) {
    using Sum = accumulator_t<T>;
    const bool nhwc = a.g.layout == Layout::nhwc;
    const int64_t plane = a.g.p * a.g.q, total = a.g.n * a.g.k * plane / size, group_filters = a.g.k / a.ratio_groups;
    auto* const y = static_cast<Neighbours<T, size>*>(a.y);
    for (int64_t item = first_item(); item < total; item += item_step()) {
        const Place at = place_of(item * size, nhwc, a.g.k, plane);
        const int64_t image = a.ratio_n == 1 ? 0 : at.n;
        Neighbours<T, size> values = y[item];
#pragma unroll
        for (int i = 0; i < size; ++i) {
            const int64_t k = at.c + (nhwc ? i : 0), pixel = at.pixel + (nhwc ? 0 : i);
            const int64_t group = a.ratio_groups == 1 ? 0 : divide(k, group_filters);
            const Sum ratio = static_cast<const Sum*>(a.ratio)[(image * a.ratio_groups + group) * plane + pixel];
            const Sum bias = a.bias ? Sum(Value<T>::load(static_cast<const T*>(a.bias)[k])) : Sum(0);
            const Sum value = activated(ratio * Sum(Value<T>::load(values.at[i])) + bias, Sum(a.negative_slope));
            values.at[i] = Value<T>::store(ratio > 0 ? value : Sum(0));
        }
        y[item] = values;
    }
}

// Whether rows of memory, of `channels` or of `plane` values, come in 16 bytes.
bool comes_in_vectors(Layout layout, int64_t channels, int64_t plane, int64_t bytes, const void* first) {
    const int64_t row = layout == Layout::nhwc ? channels : plane;
    return row * bytes % vector_bytes == 0 && reinterpret_cast<uintptr_t>(first) % vector_bytes == 0;
}

template <class Raw>
Status launch_masked_copy(const char* name, const MaskedCopy& a, cudaStream_t stream) {
    constexpr int size = vector_bytes / int(sizeof(Raw));
    const int64_t count = a.g.n * a.g.c * a.g.h * a.g.w;
    const bool vectors = comes_in_vectors(a.g.layout, a.g.c, a.g.h * a.g.w, sizeof(Raw), a.x) &&
                         reinterpret_cast<uintptr_t>(a.out) % vector_bytes == 0;
    if (vectors)
        return launch(name, masked_copy_kernel<Raw, size>, grid_for(count / size, threads), threads, 0, stream, a);
    return launch(name, masked_copy_kernel<Raw, 1>, grid_for(count, threads), threads, 0, stream, a);
}

}  // namespace

Status masked_copy(const MaskedCopy& a, cudaStream_t stream) {
    constexpr const char* name = "masked_copy";
    if (a.g.dtype == DType::f64) return launch_masked_copy<uint64_t>(name, a, stream);
    return by_element_size(
        a.g.dtype, name, [&](auto type) { return launch_masked_copy<typename decltype(type)::type>(name, a, stream); });
}

Status renormalise(const Renormalise& a, cudaStream_t stream) {
    constexpr const char* name = "renormalise";
    return by_type(a.g.dtype, name, [&](auto type) {
        using T = typename decltype(type)::type;
        constexpr int size = vector_bytes / int(sizeof(T));
        const int64_t count = a.g.n * a.g.k * a.g.p * a.g.q;
        if (comes_in_vectors(a.g.layout, a.g.k, a.g.p * a.g.q, sizeof(T), a.y))
            return launch(name, renormalise_kernel<T, size>, grid_for(count / size, threads), threads, 0, stream, a);
        return launch(name, renormalise_kernel<T, 1>, grid_for(count, threads), threads, 0, stream, a);
    });
}

}  // namespace pconv::cuda
