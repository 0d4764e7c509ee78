// smooth_fill: the thin plate under tension in the holes of a picture.
//
// Each hole is solved by itself, small ones by one thread each, the passes over large ones shared by the threads. Sums
// are taken over fixed chunks in a fixed order: the same bits whatever the number of threads.
#include "by_dtype.h"
#include "kernels.h"
#include "smooth_solver.h"

namespace pconv::cpu {
namespace {

constexpr size_t kLargeHole = 2048;  // in blocks: from here on threads share a hole

template <class V>
void fill_planes(const SmoothFill& f, const V* in, V* out) {
    using T = precise_t<V>;
    const int64_t pixels = f.h * f.w;
    for (int64_t m = 0; m < f.mask_n * f.mask_c; ++m) {
        const uint8_t* const mask = f.mask + m * pixels;
        const std::vector<Hole> holes = HoleFinder(mask, f.h, f.w).holes();
        // The mask's planes of the picture: all samples or one, all channels or one.
        const int64_t first_n = f.mask_n == 1 ? 0 : m / f.mask_c, samples = f.mask_n == 1 ? f.n : 1;
        const int64_t first_c = f.mask_c == 1 ? 0 : m % f.mask_c, channels = f.mask_c == 1 ? f.c : 1;
        const auto fill = [&](const Hole& hole) {
            const SmoothLevels levels(mask, f.h, f.w, hole, f.tension);
            Solver<T> solver(levels);
            for (int64_t n = first_n; n < first_n + samples; ++n)
                for (int64_t c = first_c; c < first_c + channels; ++c) {
                    const bool last = f.layout == Layout::nhwc;
                    const int64_t plane = last ? n * f.c * pixels + c : (n * f.c + c) * pixels;
                    solver.fill(in + plane, f.w, last ? f.c : 1, f.tolerance, f.max_iterations, out + plane);
                }
        };
        std::vector<const Hole*> small;
        for (const Hole& hole : holes) {
            if (hole.size() < kLargeHole)
                small.push_back(&hole);
            else
                fill(hole);
        }
        parallel_for(int64_t(small.size()), 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) fill(*small[size_t(i)]);
        });
    }
}

}  // namespace

int64_t plane_without_valid(const SmoothFill& f) {
    const int64_t pixels = f.h * f.w;
    for (int64_t m = 0; m < f.mask_n * f.mask_c; ++m) {
        const uint8_t* const mask = f.mask + m * pixels;
        if (std::all_of(mask, mask + pixels, [](uint8_t byte) { return byte == 0; })) return m;
    }
    return -1;
}

void smooth_fill(const SmoothFill& f, const void* in, void* out) {
    by_dtype(f.dtype, [&](auto type) {
        using V = decltype(type);
        fill_planes(f, static_cast<const V*>(in), static_cast<V*>(out));
    });
}

}  // namespace pconv::cpu
