// smooth_fill: the unknown pixels level by level, the first guess (a pyramid of partial convolutions with a fixed 2x2
// window, and back up into the holes), and the result.
#include "../launch.cuh"
#include "smooth_pixels.cuh"

namespace pconv::cuda {
namespace {

__global__ void unknown_kernel(const uint8_t* valid, int64_t count, uint8_t* unknown) {
    for (int64_t item = first_item(); item < count; item += item_step()) unknown[item] = valid[item] == 0;
}

// A coarse pixel is unknown where all of its pixels are; beyond an odd side there are none.
__global__ void unknown_below_kernel(
    const SmoothLevel fine, const SmoothLevel coarse, uint8_t* unknown, int64_t count) {
    for (int64_t item = first_item(); item < count; item += item_step()) {
        const SmoothPixel at = smooth_pixel(coarse, item);  // of the masks' planes
        uint8_t all = 1;
        for (int64_t y = 2 * at.y; y < 2 * at.y + 2 && y < fine.h; ++y)
            for (int64_t x = 2 * at.x; x < 2 * at.x + 2 && x < fine.w; ++x)
                if (fine.unknown[(at.plane * fine.h + y) * fine.w + x] == 0) all = 0;
        unknown[item] = all;
    }
}

template <class V>
__global__ void load_kernel(
    const SmoothLevel level, const V* input, const Strides strides, accumulator_t<V>* picture,
    accumulator_t<V>* weight) {
    for (int64_t item = first_item(); item < level.planes * level.h * level.w; item += item_step()) {
        const SmoothPixel at = smooth_pixel(level, item);
        const bool valid = !is_unknown(level, at);
        bool beside = false;
        for (int64_t y = at.y - 1; y <= at.y + 1; ++y)
            for (int64_t x = at.x - 1; x <= at.x + 1; ++x)
                if (y >= 0 && y < level.h && x >= 0 && x < level.w && is_unknown(level, {at.plane, y, x}))
                    beside = true;
        const Position position{at.plane / level.channels, at.plane % level.channels, at.y, at.x};
        picture[item] = valid ? Value<V>::load(input[offset_of(strides, position)]) : accumulator_t<V>(0);
        weight[item] = accumulator_t<V>(valid && beside ? 1 : 0);
    }
}

template <class T>
__global__ void mean_kernel(
    const SmoothLevel fine, const SmoothLevel coarse, const T* value, const T* weight, T* coarse_value,
    T* coarse_weight) {
    for (int64_t item = first_item(); item < coarse.planes * coarse.h * coarse.w; item += item_step()) {
        const SmoothPixel at = smooth_pixel(coarse, item);
        T sum = 0, count = 0;
        for (int64_t y = 2 * at.y; y < 2 * at.y + 2 && y < fine.h; ++y)
            for (int64_t x = 2 * at.x; x < 2 * at.x + 2 && x < fine.w; ++x) {
                const int64_t from = (at.plane * fine.h + y) * fine.w + x;
                sum += weight[from] > 0 ? weight[from] * value[from] : T(0);  // a select: the value may be infinite
                count += weight[from];
            }
        coarse_value[item] = count > 0 ? sum / count : T(0);
        coarse_weight[item] = count < 1 ? count : T(1);
    }
}

template <class T>
__global__ void double_kernel(const SmoothLevel fine, const SmoothLevel coarse, const T* coarse_value, T* value) {
    for (int64_t item = first_item(); item < fine.planes * fine.h * fine.w; item += item_step()) {
        const SmoothPixel at = smooth_pixel(fine, item);
        if (is_unknown(fine, at))
            value[item] = doubled_at(coarse, coarse_value + at.plane * coarse.h * coarse.w, at.y, at.x);
    }
}

template <class T>
__global__ void zero_kernel(T* values, int64_t count) {
    for (int64_t item = first_item(); item < count; item += item_step()) values[item] = 0;
}

template <class V>
__global__ void store_kernel(
    const SmoothLevel level, const accumulator_t<V>* picture, const accumulator_t<V>* sum, V* out,
    const Strides strides) {
    for (int64_t item = first_item(); item < level.planes * level.h * level.w; item += item_step()) {
        const SmoothPixel at = smooth_pixel(level, item);
        const Position position{at.plane / level.channels, at.plane % level.channels, at.y, at.x};
        if (is_unknown(level, at)) out[offset_of(strides, position)] = Value<V>::store(picture[item] + sum[item]);
    }
}

}  // namespace

Status smooth_unknown(const uint8_t* valid, int64_t count, uint8_t* unknown, cudaStream_t stream) {
    const dim3 grid = grid_for(count, smooth_threads);
    return launch("smooth_unknown", unknown_kernel, grid, smooth_threads, 0, stream, valid, count, unknown);
}

Status smooth_unknown_below(const SmoothLevel& fine, const SmoothLevel& coarse, uint8_t* unknown, cudaStream_t stream) {
    const int64_t count = coarse.mask_n * coarse.mask_c * coarse.pixels();
    return launch(
        "smooth_unknown_below", unknown_below_kernel, grid_for(count, smooth_threads), smooth_threads, 0, stream, fine,
        coarse, unknown, count);
}

Status smooth_load(
    const SmoothLevel& level, DType dtype, const void* input, const Strides& strides, void* picture, void* weight,
    cudaStream_t stream) {
    return by_type(dtype, "smooth_load", [&](auto type) {
        using V = typename decltype(type)::type;
        using T = accumulator_t<V>;
        return launch(
            "smooth_load", load_kernel<V>, grid_for(level.planes * level.pixels(), smooth_threads), smooth_threads, 0,
            stream, level, static_cast<const V*>(input), strides, static_cast<T*>(picture), static_cast<T*>(weight));
    });
}

Status smooth_mean(
    const SmoothLevel& fine, const SmoothLevel& coarse, DType dtype, const void* value, const void* weight,
    void* coarse_value, void* coarse_weight, cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_mean", [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            "smooth_mean", mean_kernel<T>, grid_for(coarse.planes * coarse.pixels(), smooth_threads), smooth_threads, 0,
            stream, fine, coarse, static_cast<const T*>(value), static_cast<const T*>(weight),
            static_cast<T*>(coarse_value), static_cast<T*>(coarse_weight));
    });
}

Status smooth_double(
    const SmoothLevel& fine, const SmoothLevel& coarse, DType dtype, const void* coarse_value, void* value,
    cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_double", [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            "smooth_double", double_kernel<T>, grid_for(fine.planes * fine.pixels(), smooth_threads), smooth_threads, 0,
            stream, fine, coarse, static_cast<const T*>(coarse_value), static_cast<T*>(value));
    });
}

Status smooth_zero(DType dtype, void* values, int64_t count, cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_zero", [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            "smooth_zero", zero_kernel<T>, grid_for(count, smooth_threads), smooth_threads, 0, stream,
            static_cast<T*>(values), count);
    });
}

Status smooth_store(
    const SmoothLevel& level, DType dtype, const void* picture, const void* sum, void* out, const Strides& strides,
    cudaStream_t stream) {
    return by_type(dtype, "smooth_store", [&](auto type) {
        using V = typename decltype(type)::type;
        using T = accumulator_t<V>;
        return launch(
            "smooth_store", store_kernel<V>, grid_for(level.planes * level.pixels(), smooth_threads), smooth_threads, 0,
            stream, level, static_cast<const T*>(picture), static_cast<const T*>(sum), static_cast<V*>(out), strides);
    });
}

}  // namespace pconv::cuda
