// smooth_fill's smoother: a Chebyshev polynomial of the residual, smooth_degree plates deep. A block keeps a tile and
// what the plates reach around it in shared memory and makes all sweeps there: a value is read and written once, not
// once a sweep. Each sweep is right on two pixels less at each side; what is written is right to the last.
#include "../launch.cuh"
#include "smooth_pixels.cuh"

namespace pconv::cuda {
namespace {

constexpr int reach = 2;                       // of one plate
constexpr int around = reach * smooth_degree;  // what a tile needs around it
#ifdef PCONV_EMULATE
constexpr int tile = 12;  // so that small pictures have several
#else
constexpr int tile = 32;
#endif
constexpr int side = tile + 2 * around;
constexpr int area = side * side;

template <class T>
struct SmoothTile {
    T *r, *d, *next;  // [side, side] each
    int64_t y, x;     // of its first pixel in the plane, `around` before the tile's
};

struct Chebyshev {
    double centre, radius;
};

inline Chebyshev chebyshev(const SmoothLevel& level) {
    const double largest = 64 * level.stiffness + 8 * level.tension;
    return {largest * (1 + 1 / smooth_range) / 2, largest * (1 - 1 / smooth_range) / 2};
}

struct TileArguments {
    SmoothLevel level, coarse;
    Chebyshev range;
    const SmoothState* state;
    const void *given, *below;  // r, and the level below's x (nullptr: none)
    void *x, *r;
    int64_t tiles_x, tiles;  // in a plane
};

// body(index in the tile, y, x) for the pixels of the picture that lie `margin` or less around the tile.
template <class T, class Body>
PCONV_DEV void for_pixels(const TileArguments& a, const SmoothTile<T>& t, int margin, const Body& body) {
    const int first = around - margin, width = tile + 2 * margin;
    for (int slot = int(threadIdx.x); slot < width * width; slot += smooth_threads) {
        const int row = first + slot / width, column = first + slot % width;
        const int64_t y = t.y + row, x = t.x + column;
        if (y >= 0 && y < a.level.h && x >= 0 && x < a.level.w) body(row * side + column, y, x);
    }
}

// At the picture's border neighbours are reflected, which never leads further away than they are.
template <class T>
PCONV_DEV T plate_in_tile(const TileArguments& a, const SmoothTile<T>& t, const T* values, int64_t y, int64_t x) {
    return plate_of<T>(T(a.level.stiffness), T(a.level.tension), [&](int dy, int dx) {
        return values[(reflected(y + dy, a.level.h) - t.y) * side + (reflected(x + dx, a.level.w) - t.x)];
    });
}

// The tile's block: false where there is nothing to do, for all of its threads alike.
template <class T>
PCONV_DEV bool begin_tile(const TileArguments& a, uint8_t* shared, SmoothTile<T>& t, int64_t& plane) {
    plane = int64_t(blockIdx.x) / a.tiles;
    const int64_t number = int64_t(blockIdx.x) % a.tiles;
    t.y = number / a.tiles_x * tile - around;
    t.x = number % a.tiles_x * tile - around;
    t.r = reinterpret_cast<T*>(shared);
    t.d = t.r + area;
    t.next = t.d + area;
    int any = 0;
    if (a.state == nullptr || a.state[plane].going)
        for_pixels(a, t, 0, [&](int, int64_t y, int64_t x) { any |= is_unknown(a.level, {plane, y, x}); });
    return __syncthreads_or(any) != 0;
}

// The polynomial's further steps, from d = r / centre in the tile and `left` plates' reach around it.
template <class T>
PCONV_DEV void further_steps(const TileArguments& a, SmoothTile<T>& t, int64_t plane, int left, T* x) {
    double rho = a.range.radius / a.range.centre;
    for (int k = 1; k < smooth_degree; ++k) {
        const double following = 1 / (2 * a.range.centre / a.range.radius - rho);
        const T keep = T(following * rho), add = T(2 * following / a.range.radius);
        --left;
        for_pixels(a, t, reach * left, [&](int i, int64_t y, int64_t column) {
            if (!is_unknown(a.level, {plane, y, column})) return;
            t.r[i] -= plate_in_tile(a, t, t.d, y, column);
            t.next[i] = keep * t.d[i] + add * t.r[i];
        });
        __syncthreads();
        T* const swapped = t.d;
        t.d = t.next, t.next = swapped;
        for_pixels(a, t, 0, [&](int i, int64_t y, int64_t column) { x[y * a.level.w + column] += t.d[i]; });
        rho = following;
    }
}

template <class T>
__global__ void smooth_down_kernel(const TileArguments a) {
    PCONV_DYN_SMEM(shared);
    SmoothTile<T> t;
    int64_t plane;
    if (!begin_tile(a, shared, t, plane)) return;
    const int64_t offset = plane * a.level.h * a.level.w;
    const T* const given = static_cast<const T*>(a.given) + offset;
    T *const x = static_cast<T*>(a.x) + offset, *const r = static_cast<T*>(a.r) + offset;
    for_pixels(a, t, around, [&](int i, int64_t y, int64_t column) {
        t.r[i] = given[y * a.level.w + column];
        t.d[i] = t.r[i] / T(a.range.centre);
        t.next[i] = 0;
    });
    __syncthreads();
    for_pixels(a, t, 0, [&](int i, int64_t y, int64_t column) { x[y * a.level.w + column] = t.d[i]; });
    further_steps(a, t, plane, smooth_degree, x);
    for_pixels(a, t, 0, [&](int i, int64_t y, int64_t column) {
        const bool unknown = is_unknown(a.level, {plane, y, column});
        r[y * a.level.w + column] = unknown ? t.r[i] - plate_in_tile(a, t, t.d, y, column) : T(0);
    });
}

template <class T>
__global__ void smooth_up_kernel(const TileArguments a) {
    PCONV_DYN_SMEM(shared);
    SmoothTile<T> t;
    int64_t plane;
    if (!begin_tile(a, shared, t, plane)) return;
    const int64_t offset = plane * a.level.h * a.level.w;
    const T* const given = static_cast<const T*>(a.given) + offset;
    const T* const below = static_cast<const T*>(a.below) + plane * a.coarse.h * a.coarse.w;
    T* const x = static_cast<T*>(a.x) + offset;
    const bool corrects = a.below != nullptr;
    for_pixels(a, t, around, [&](int i, int64_t y, int64_t column) {
        const bool unknown = is_unknown(a.level, {plane, y, column});
        t.r[i] = given[y * a.level.w + column];
        t.d[i] = corrects && unknown ? doubled_at(a.coarse, below, y, column) : T(0);
        t.next[i] = 0;
    });
    __syncthreads();
    for_pixels(a, t, around - reach, [&](int i, int64_t y, int64_t column) {
        if (!is_unknown(a.level, {plane, y, column})) return;
        if (corrects) t.r[i] -= plate_in_tile(a, t, t.d, y, column);
        t.next[i] = t.r[i] / T(a.range.centre);
    });
    __syncthreads();
    for_pixels(a, t, 0, [&](int i, int64_t y, int64_t column) { x[y * a.level.w + column] += t.d[i] + t.next[i]; });
    T* const swapped = t.d;
    t.d = t.next, t.next = swapped;
    __syncthreads();
    further_steps(a, t, plane, smooth_degree - 1, x);
}

template <class T>
Status start_tiles(const char* name, void (*kernel)(TileArguments), TileArguments a, cudaStream_t stream) {
    a.range = chebyshev(a.level);
    a.tiles_x = ceil_div(a.level.w, tile);
    a.tiles = a.tiles_x * ceil_div(a.level.h, tile);
    return launch(
        name, kernel, dim3(unsigned(a.level.planes * a.tiles)), smooth_threads, 3 * area * sizeof(T), stream, a);
}

}  // namespace

Status smooth_down(
    const SmoothLevel& level, DType dtype, const SmoothState* state, const void* given, void* x, void* r,
    cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_down", [&](auto type) {
        using T = typename decltype(type)::type;
        TileArguments a{};
        a.level = level, a.state = state, a.given = given, a.x = x, a.r = r;
        return start_tiles<T>("smooth_down", smooth_down_kernel<T>, a, stream);
    });
}

Status smooth_up(
    const SmoothLevel& level, const SmoothLevel* coarse, DType dtype, const SmoothState* state, const void* below,
    const void* r, void* x, cudaStream_t stream) {
    return by_smooth_type(dtype, "smooth_up", [&](auto type) {
        using T = typename decltype(type)::type;
        TileArguments a{};
        a.level = level, a.state = state, a.given = r, a.below = below, a.x = x;
        if (coarse != nullptr) a.coarse = *coarse;
        return start_tiles<T>("smooth_up", smooth_up_kernel<T>, a, stream);
    });
}

}  // namespace pconv::cuda
