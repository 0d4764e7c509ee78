// The three convolutions for any geometry, dtype, layout, groups and kind of mask: plain loops, 64-bit offsets.
// They serve doubles (gradcheck), groups and masks that differ between channels, and are the fast kernels' fallback.
//
//   fprop  y[n,k,p,q]    = ratio > 0 ? activation of (ratio * sum_{r,s,c} W[k,c,r,s] * (m ? x : 0) + bias[k]) : 0
//   dgrad  dx[n,c,h,w]   = m ? sum_{r,s,k} g'[n,k,p,q] * W[k,c,r,s] : 0
//   wgrad  dW[k,c,r,s]   = sum_{n,p,q} g'[n,k,p,q] * (m ? x : 0)
//
// Channel c of W is channel group * (C / groups) + c of x. Every sum runs in an order that only the geometry decides.
#include "../indexing.cuh"
#include "../kernels.h"
#include "../launch.cuh"
#include "../numeric.cuh"

namespace pconv::cuda {
namespace {

constexpr int threads = 256;        // fprop, dgrad: one thread an element
constexpr int wgrad_threads = 128;  // wgrad: one block an element

// A select, never a product: what lies under a hole may be NaN.
template <class T>
PCONV_DEV accumulator_t<T> masked(bool valid, const T* x) {
    return valid ? Value<T>::load(*x) : accumulator_t<T>(0);
}

struct FpropArguments {
    Geometry g;
    Mask mask;
    const void* x;       // [N, C, H, W]
    const void* weight;  // [K, C / groups, R, S]
    const void* bias;    // [K] or nullptr
    const void* ratio;   // [ratio_n, ratio_groups, P, Q]
    void* y;             // [N, K, P, Q]
    Strides x_strides, w_strides, y_strides;
    int64_t ratio_n, ratio_groups;
    double negative_slope;
    bool channels_last;  // the order in which threads take outputs
};

// One tap of one window: the sum over the group's channels. x stands at the group's first channel of the pixel,
// weight at its channel 0 of the tap.
template <class T>
PCONV_DEV accumulator_t<T> dot_channels(
    const FpropArguments& a, const T* x, const T* weight, int64_t n, int64_t first_channel, int64_t pixel) {
    accumulator_t<T> sum = 0;
    for (int64_t c = 0; c < a.g.c / a.g.groups; ++c) {
        const bool valid = is_valid(a.mask, n, first_channel + c, pixel);
        sum += masked(valid, x + c * a.x_strides.at[1]) * Value<T>::load(weight[c * a.w_strides.at[1]]);
    }
    return sum;
}

// Taps are summed apart from channels: two short sums round less than one long one.
template <class T>
PCONV_DEV accumulator_t<T> window_sum(const FpropArguments& a, const Position& out) {
    const Geometry& g = a.g;
    const int64_t group = out.c / (g.k / g.groups), first_channel = group * (g.c / g.groups);
    const T* x = static_cast<const T*>(a.x) + out.n * a.x_strides.at[0] + first_channel * a.x_strides.at[1];
    const T* weight = static_cast<const T*>(a.weight) + out.c * a.w_strides.at[0];
    accumulator_t<T> sum = 0;
    for (int64_t r = 0; r < g.r; ++r) {
        const int64_t h = out.h * g.stride_h - g.pad_h + r * g.dil_h;
        if (h < 0 || h >= g.h) continue;
        for (int64_t s = 0; s < g.s; ++s) {
            const int64_t w = out.w * g.stride_w - g.pad_w + s * g.dil_w;
            if (w < 0 || w >= g.w) continue;
            sum += dot_channels<T>(
                a, x + h * a.x_strides.at[2] + w * a.x_strides.at[3],
                weight + r * a.w_strides.at[2] + s * a.w_strides.at[3], out.n, first_channel, h * g.w + w);
        }
    }
    return sum;
}

template <class T>
PCONV_DEV accumulator_t<T> ratio_of(const FpropArguments& a, const Position& out) {
    const Geometry& g = a.g;
    const int64_t image = a.ratio_n == 1 ? 0 : out.n;
    const int64_t group = a.ratio_groups == 1 ? 0 : out.c / (g.k / a.ratio_groups);
    const int64_t at = ((image * a.ratio_groups + group) * g.p + out.h) * g.q + out.w;
    return static_cast<const accumulator_t<T>*>(a.ratio)[at];
}

template <class T>
__global__ void generic_fprop_kernel(const FpropArguments a) {
    using Sum = accumulator_t<T>;
    const Geometry& g = a.g;
    const int64_t total = g.n * g.k * g.p * g.q;
    for (int64_t item = first_item(); item < total; item += item_step()) {
        const Position out = unravel(item, a.channels_last, g.k, g.p, g.q);
        const Sum ratio = ratio_of<T>(a, out);
        Sum value = 0;
        if (ratio > 0) value = ratio * window_sum<T>(a, out);
        if (a.bias != nullptr && ratio > 0) value += Value<T>::load(static_cast<const T*>(a.bias)[out.c]);
        static_cast<T*>(a.y)[offset_of(a.y_strides, out)] = Value<T>::store(activated(value, Sum(a.negative_slope)));
    }
}

struct DgradArguments {
    Geometry g;
    Mask mask;
    const void* scaled;  // [N, K, P, Q]
    const void* weight;  // [K, C / groups, R, S]
    void* dx;            // [N, C, H, W]
    Strides scaled_strides, w_strides, dx_strides;
    bool channels_last;
};

// The window position that reaches input row (or column) `at` with tap `tap`, -1 where none does.
PCONV_DEV int64_t
window_reaching(int64_t at, int64_t tap, int64_t stride, int64_t pad, int64_t dilation, int64_t windows) {
    const int64_t from = at + pad - tap * dilation;
    if (from < 0 || from % stride != 0) return -1;
    return from / stride < windows ? from / stride : -1;
}

template <class T>
PCONV_DEV accumulator_t<T> gathered_gradient(const DgradArguments& a, const Position& in) {
    const Geometry& g = a.g;
    const int64_t outputs = g.k / g.groups, group = in.c / (g.c / g.groups), first = group * outputs;
    const T* scaled = static_cast<const T*>(a.scaled) + in.n * a.scaled_strides.at[0];
    const T* weight = static_cast<const T*>(a.weight) + (in.c - group * (g.c / g.groups)) * a.w_strides.at[1];
    accumulator_t<T> sum = 0;
    for (int64_t r = 0; r < g.r; ++r) {
        const int64_t p = window_reaching(in.h, r, g.stride_h, g.pad_h, g.dil_h, g.p);
        if (p < 0) continue;
        for (int64_t s = 0; s < g.s; ++s) {
            const int64_t q = window_reaching(in.w, s, g.stride_w, g.pad_w, g.dil_w, g.q);
            if (q < 0) continue;
            const T* gradient = scaled + p * a.scaled_strides.at[2] + q * a.scaled_strides.at[3];
            const T* tap = weight + r * a.w_strides.at[2] + s * a.w_strides.at[3];
            accumulator_t<T> tap_sum = 0;
            for (int64_t k = first; k < first + outputs; ++k)
                tap_sum +=
                    Value<T>::load(gradient[k * a.scaled_strides.at[1]]) * Value<T>::load(tap[k * a.w_strides.at[0]]);
            sum += tap_sum;
        }
    }
    return sum;
}

template <class T>
__global__ void generic_dgrad_kernel(const DgradArguments a) {
    const Geometry& g = a.g;
    const int64_t total = g.n * g.c * g.h * g.w;
    for (int64_t item = first_item(); item < total; item += item_step()) {
        const Position in = unravel(item, a.channels_last, g.c, g.h, g.w);
        accumulator_t<T> value = 0;
        if (is_valid(a.mask, in.n, in.c, in.h * g.w + in.w)) value = gathered_gradient<T>(a, in);
        static_cast<T*>(a.dx)[offset_of(a.dx_strides, in)] = Value<T>::store(value);
    }
}

struct WgradArguments {
    Geometry g;
    Mask mask;
    const void* scaled;  // [N, K, P, Q]
    const void* x;       // [N, C, H, W]
    void* dw;            // [K, C / groups, R, S]
    Strides scaled_strides, x_strides, dw_strides;
};

// What the windows that this thread takes contribute to one weight; to.c is its channel within the group.
template <class T>
PCONV_DEV accumulator_t<T> weight_gradient_part(const WgradArguments& a, const Position& to) {
    const Geometry& g = a.g;
    const int64_t channel = to.n / (g.k / g.groups) * (g.c / g.groups) + to.c;
    const T* scaled = static_cast<const T*>(a.scaled) + to.n * a.scaled_strides.at[1];
    const T* x = static_cast<const T*>(a.x) + channel * a.x_strides.at[1];
    const int64_t windows = g.n * g.p * g.q;
    accumulator_t<T> sum = 0;
    for (int64_t item = threadIdx.x; item < windows; item += blockDim.x) {
        const Position window = unravel(item, false, 1, g.p, g.q);
        const int64_t h = window.h * g.stride_h - g.pad_h + to.h * g.dil_h;
        const int64_t w = window.w * g.stride_w - g.pad_w + to.w * g.dil_w;
        if (h < 0 || h >= g.h || w < 0 || w >= g.w) continue;
        const T* pixel = x + window.n * a.x_strides.at[0] + h * a.x_strides.at[2] + w * a.x_strides.at[3];
        const T* gradient = scaled + window.n * a.scaled_strides.at[0] + window.h * a.scaled_strides.at[2] +
                            window.w * a.scaled_strides.at[3];
        sum += masked(is_valid(a.mask, window.n, channel, h * g.w + w), pixel) * Value<T>::load(*gradient);
    }
    return sum;
}

// The same tree in every run: lanes first, then warps in order. Only thread 0's result is the sum.
template <class Sum>
PCONV_DEV Sum block_sum(Sum value, Sum* warp_sums) {
    for (int lane = warp_threads / 2; lane > 0; lane /= 2) value += __shfl_xor_sync(~0u, value, lane);
    if (threadIdx.x % warp_threads == 0) warp_sums[threadIdx.x / warp_threads] = value;
    __syncthreads();
    Sum sum = 0;
    if (threadIdx.x == 0)
        for (int warp = 0; warp < wgrad_threads / warp_threads; ++warp) sum += warp_sums[warp];
    __syncthreads();  // before the next element's sums take their place
    return sum;
}

template <class T>
__global__ void generic_wgrad_kernel(const WgradArguments a) {
    PCONV_DYN_SMEM(shared);
    const Geometry& g = a.g;
    const int64_t group_channels = g.c / g.groups, total = g.k * group_channels * g.r * g.s;
    for (int64_t item = blockIdx.x; item < total; item += gridDim.x) {
        const Position to = unravel(item, false, group_channels, g.r, g.s);
        const accumulator_t<T> part = weight_gradient_part<T>(a, to);
        const accumulator_t<T> sum = block_sum(part, reinterpret_cast<accumulator_t<T>*>(shared));
        if (threadIdx.x == 0) static_cast<T*>(a.dw)[offset_of(a.dw_strides, to)] = Value<T>::store(sum);
    }
}

}  // namespace

Status generic_fprop(
    const Geometry& g, const Mask& mask, const void* x, const Strides& x_strides, const void* weight,
    const Strides& w_strides, const void* bias, const void* ratio, int64_t ratio_n, int64_t ratio_groups,
    double negative_slope, void* y, const Strides& y_strides, cudaStream_t stream) {
    constexpr const char* name = "generic_fprop";
    const FpropArguments a{
        g,         mask,      x,         weight,  bias,         ratio,          y,
        x_strides, w_strides, y_strides, ratio_n, ratio_groups, negative_slope, is_channels_last(y_strides)};
    const dim3 grid = grid_for(g.n * g.k * g.p * g.q, threads);
    return by_type(g.dtype, name, [&](auto type) {
        return launch(name, generic_fprop_kernel<typename decltype(type)::type>, grid, threads, 0, stream, a);
    });
}

Status generic_dgrad(
    const Geometry& g, const Mask& mask, const void* scaled, const Strides& scaled_strides, const void* weight,
    const Strides& w_strides, void* dx, const Strides& dx_strides, cudaStream_t stream) {
    constexpr const char* name = "generic_dgrad";
    const DgradArguments a{
        g, mask, scaled, weight, dx, scaled_strides, w_strides, dx_strides, is_channels_last(dx_strides)};
    const dim3 grid = grid_for(g.n * g.c * g.h * g.w, threads);
    return by_type(g.dtype, name, [&](auto type) {
        return launch(name, generic_dgrad_kernel<typename decltype(type)::type>, grid, threads, 0, stream, a);
    });
}

Status generic_wgrad(
    const Geometry& g, const Mask& mask, const void* scaled, const Strides& scaled_strides, const void* x,
    const Strides& x_strides, void* dw, const Strides& dw_strides, cudaStream_t stream) {
    constexpr const char* name = "generic_wgrad";
    const WgradArguments a{g, mask, scaled, x, dw, scaled_strides, x_strides, dw_strides};
    const dim3 grid = grid_for(g.k * (g.c / g.groups) * g.r * g.s);
    const size_t smem = wgrad_threads / warp_threads * sizeof(double);
    return by_type(g.dtype, name, [&](auto type) {
        return launch(name, generic_wgrad_kernel<typename decltype(type)::type>, grid, wgrad_threads, smem, stream, a);
    });
}

}  // namespace pconv::cuda
