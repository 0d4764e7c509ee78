// smooth_fill between the smoother's sweeps: down a level, and the conjugate gradients of the first one. Sums are cut
// into parts that only the geometry decides, and the parts are added in order: the same bits every time.
#include "../launch.cuh"
#include "smooth_pixels.cuh"

namespace pconv::cuda {
namespace {

#ifdef PCONV_EMULATE
constexpr int64_t pixels_per_part = 300;  // so that small planes have several
#else
constexpr int64_t pixels_per_part = 1 << 14;
#endif
constexpr int64_t most_parts = 256;

PCONV_DEV bool is_going(const SmoothState* state, int64_t plane) { return state == nullptr || state[plane].going; }

// The doubling's weight of coarse row (or column) `at` in fine row `from`: both of its neighbours beyond the border are
// itself.
PCONV_DEV double doubling_weight(int64_t from, int64_t at, int64_t coarse_size) {
    const int64_t own = from / 2, other = reflected(own + (from % 2 ? 1 : -1), coarse_size);
    return (own == at ? 0.75 : 0) + (other == at ? 0.25 : 0);
}

template <class T>
__global__ void restrict_kernel(
    const SmoothLevel fine, const SmoothLevel coarse, const SmoothState* state, const T* r, T* coarse_r) {
    for (int64_t item = first_item(); item < coarse.planes * coarse.h * coarse.w; item += item_step()) {
        const SmoothPixel at = smooth_pixel(coarse, item);
        if (!is_going(state, at.plane) || !is_unknown(coarse, at)) continue;
        T sum = 0;
        for (int64_t y = 2 * at.y - 1; y <= 2 * at.y + 2; ++y)
            for (int64_t x = 2 * at.x - 1; x <= 2 * at.x + 2; ++x) {
                if (y < 0 || y >= fine.h || x < 0 || x >= fine.w) continue;
                const double weight = doubling_weight(y, at.y, coarse.h) * doubling_weight(x, at.x, coarse.w);
                sum += T(weight) * r[(at.plane * fine.h + y) * fine.w + x];
            }
        coarse_r[item] = sum;
    }
}

template <class T>
__global__ void residual_kernel(const SmoothLevel level, const SmoothState* state, const T* picture, T* r) {
    for (int64_t item = first_item(); item < level.planes * level.h * level.w; item += item_step()) {
        const SmoothPixel at = smooth_pixel(level, item);
        if (!(state == nullptr || (state[at.plane].going && state[at.plane].renewing)) || !is_unknown(level, at))
            continue;
        r[item] = T(-plate_in_plane<double>(level, picture + at.plane * level.h * level.w, at.y, at.x));
    }
}

template <class T>
__global__ void step_kernel(
    const SmoothLevel level, const SmoothState* state, const T* p, const T* q, T* sum, T* r, T* picture) {
    for (int64_t item = first_item(); item < level.planes * level.h * level.w; item += item_step()) {
        const SmoothPixel at = smooth_pixel(level, item);
        const SmoothState& now = state[at.plane];
        if (!now.going || !is_unknown(level, at)) continue;
        const T step = T(now.step);
        sum[item] += step * p[item];
        r[item] -= step * q[item];
        if (!now.renewing) continue;
        picture[item] += sum[item];
        sum[item] = 0;
    }
}

template <class T>
__global__ void direction_kernel(const SmoothLevel level, const SmoothState* state, const T* z, T* p) {
    for (int64_t item = first_item(); item < level.planes * level.h * level.w; item += item_step()) {
        const int64_t plane = item / (level.h * level.w);
        if (state[plane].going) p[item] = z[item] + T(state[plane].turn) * p[item];
    }
}

// ---- sums: body(item) is a pixel's term

template <class Body>
PCONV_DEV void sum_part(const SmoothLevel& level, uint8_t* shared, int64_t parts, double* result, const Body& body) {
    double* const sums = reinterpret_cast<double*>(shared);
    const int64_t plane = int64_t(blockIdx.x) / parts, part = int64_t(blockIdx.x) % parts;
    const int64_t pixels = level.h * level.w;
    double sum = 0;
    for (int64_t i = part * smooth_threads + threadIdx.x; i < pixels; i += parts * smooth_threads)
        sum += body(plane * pixels + i);
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int step = smooth_threads / 2; step > 0; step /= 2) {
        if (int(threadIdx.x) < step) sums[threadIdx.x] += sums[threadIdx.x + step];
        __syncthreads();
    }
    if (threadIdx.x == 0) result[blockIdx.x] = sums[0];
}

template <class T>
__global__ void product_kernel(
    const SmoothLevel level, const SmoothState* state, const T* p, T* q, double* result, int64_t parts) {
    PCONV_DYN_SMEM(shared);
    const bool going = state[int64_t(blockIdx.x) / parts].going;
    sum_part(level, shared, parts, result, [&](int64_t item) {
        const SmoothPixel at = smooth_pixel(level, item);
        if (!going || !is_unknown(level, at)) return 0.0;
        const T bent = plate_in_plane<T>(level, p + at.plane * level.h * level.w, at.y, at.x);
        q[item] = bent;
        return double(p[item]) * double(bent);
    });
}

template <class T>
__global__ void dots_kernel(
    const SmoothLevel level, const SmoothState* state, const T* r, const T* z, double* result, int64_t parts) {
    PCONV_DYN_SMEM(shared);
    const bool going = is_going(state, int64_t(blockIdx.x) / parts);
    sum_part(level, shared, parts, result, [&](int64_t item) {
        return going && is_unknown(level, smooth_pixel(level, item)) ? double(r[item]) * double(z[item]) : 0.0;
    });
}

__global__ void state_kernel(
    int64_t planes, int64_t parts, SmoothSum what, const double* sums, double tolerance, SmoothState* state) {
    for (int64_t plane = first_item(); plane < planes; plane += item_step()) {
        SmoothState& now = state[plane];
        const auto sum = [&](int64_t which) {
            double total = 0;
            for (int64_t i = 0; i < parts; ++i) total += sums[(which * planes + plane) * parts + i];
            return total;
        };
        if (what == SmoothSum::first) {
            now.rz = sum(0);
            now.least = now.rz;
            now.goal = tolerance * tolerance * now.rz;
            now.renew_below = smooth_renew * smooth_renew * now.rz;
            now.turn = 0;
            now.going = !(now.rz <= now.goal);
            continue;
        }
        if (!now.going) continue;
        if (what == SmoothSum::product) {
            const double pq = sum(0);
            if (pq < smooth_lost * now.rz) {
                now.going = false;
                continue;
            }
            now.step = now.rz / pq;
            now.renewing = now.rz < now.renew_below;
            if (now.renewing) now.renew_below *= smooth_renew * smooth_renew;
        } else {
            // Polak and Ribiere's form, (r - previous r) z / previous r z, with r - previous r = -step q.
            now.turn = -now.step * sum(1) / now.rz;
            now.rz = sum(0);
            now.going = !(now.rz <= now.goal || now.rz > smooth_grown * now.least);
            if (now.rz < now.least) now.least = now.rz;
        }
    }
}

}  // namespace

int64_t smooth_parts(const SmoothLevel& level) {
    const int64_t wanted = ceil_div(level.pixels(), pixels_per_part);
    return wanted < most_parts ? wanted : most_parts;
}

Status smooth_restrict(
    const SmoothLevel& fine, const SmoothLevel& coarse, DType dtype, const SmoothState* state, const void* r,
    void* coarse_r, cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_restrict", [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            "smooth_restrict", restrict_kernel<T>, grid_for(coarse.planes * coarse.pixels(), smooth_threads),
            smooth_threads, 0, stream, fine, coarse, state, static_cast<const T*>(r), static_cast<T*>(coarse_r));
    });
}

Status smooth_residual(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* picture, void* r,
    cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_residual", [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            "smooth_residual", residual_kernel<T>, grid_for(level.planes * level.pixels(), smooth_threads),
            smooth_threads, 0, stream, level, state, static_cast<const T*>(picture), static_cast<T*>(r));
    });
}

Status smooth_product(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* p, void* q, double* parts,
    cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_product", [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            "smooth_product", product_kernel<T>, dim3(unsigned(level.planes * smooth_parts(level))), smooth_threads,
            smooth_threads * sizeof(double), stream, level, state, static_cast<const T*>(p), static_cast<T*>(q), parts,
            smooth_parts(level));
    });
}

Status smooth_step(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* p, const void* q, void* sum, void* r,
    void* picture, cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_step", [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            "smooth_step", step_kernel<T>, grid_for(level.planes * level.pixels(), smooth_threads), smooth_threads, 0,
            stream, level, state, static_cast<const T*>(p), static_cast<const T*>(q), static_cast<T*>(sum),
            static_cast<T*>(r), static_cast<T*>(picture));
    });
}

Status smooth_dots(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* r, const void* q, const void* z,
    double* parts, cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_dots", [&](auto type) {
        using T = typename decltype(type)::type;
        const int64_t count = smooth_parts(level);
        Status status;
        for (const void* const with : {r, q}) {
            if (!status.ok() || with == nullptr) break;
            status = launch(
                "smooth_dots", dots_kernel<T>, dim3(unsigned(level.planes * count)), smooth_threads,
                smooth_threads * sizeof(double), stream, level, state, static_cast<const T*>(with),
                static_cast<const T*>(z), with == r ? parts : parts + level.planes * count, count);
        }
        return status;
    });
}

Status smooth_direction(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* z, void* p, cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_direction", [&](auto type) {
        using T = typename decltype(type)::type;
        return launch(
            "smooth_direction", direction_kernel<T>, grid_for(level.planes * level.pixels(), smooth_threads),
            smooth_threads, 0, stream, level, state, static_cast<const T*>(z), static_cast<T*>(p));
    });
}

Status smooth_state(
    const SmoothLevel& level, SmoothSum what, const double* parts, double tolerance, SmoothState* state,
    cudaStream_t stream) {
    return launch(
        "smooth_state", state_kernel, grid_for(level.planes, smooth_threads), smooth_threads, 0, stream, level.planes,
        smooth_parts(level), what, parts, tolerance, state);
}

}  // namespace pconv::cuda
