// The order of smooth_fill's launches. How deep the pyramid goes is the picture's size alone, and how many iterations
// run is the caller's limit: nothing waits for what the mask holds. Levels without an unknown pixel, and planes that
// have converged, cost a launch that ends at once.
#include "../smooth/smooth.h"
#include "workspace.h"

#include <vector>

namespace pconv::cuda {
namespace {

struct Planes {  // of one level
    void *x, *given, *rest;
};

class Run {
  public:
    // Measures the workspace where base is nullptr, as in workspace.h.
    Run(const SmoothFill& fill, void* base, cudaStream_t stream) : fill_(fill), stream_(stream), workspace_(base) {
        const int64_t bytes = fill.dtype == DType::f64 ? 8 : 4, planes = fill.n * fill.c;
        SmoothLevel level{};
        level.h = fill.h, level.w = fill.w, level.planes = planes, level.channels = fill.c;
        level.mask_n = fill.mask_n, level.mask_c = fill.mask_c;
        level.stiffness = 1 - fill.tension, level.tension = fill.tension;
        for (;;) {
            level.unknown = static_cast<const uint8_t*>(workspace_.take(level.mask_n * level.mask_c * level.pixels()));
            levels_.push_back(level);
            Planes& of_level = planes_.emplace_back();
            for (void** plane : {&of_level.x, &of_level.given, &of_level.rest})
                *plane = workspace_.take(planes * level.pixels() * bytes);
            if (level.h == 1 && level.w == 1) break;
            const bool line = level.h == 1 || level.w == 1;
            level.stiffness /= line ? 8 : 4, level.tension /= line ? 2 : 1;
            level.h = (level.h + 1) / 2, level.w = (level.w + 1) / 2;
        }
        for (void** plane : {&picture_, &p_, &q_, &sum_})
            *plane = workspace_.take(planes * levels_[0].pixels() * bytes);
        parts_ = static_cast<double*>(workspace_.take(2 * planes * smooth_parts(levels_[0]) * int64_t(sizeof(double))));
        state_ = static_cast<SmoothState*>(workspace_.take(planes * int64_t(sizeof(SmoothState))));
    }
    int64_t used() const { return workspace_.used(); }

    Status operator()() {
        start();
        const SmoothLevel& top = levels_[0];
        void *const r = planes_[0].given, *const z = planes_[0].x;
        then([&] { return smooth_residual(top, type(), nullptr, picture_, r, stream_); });
        v_cycle(nullptr);
        then([&] { return smooth_dots(top, type(), nullptr, r, nullptr, z, parts_, stream_); });
        then([&] { return smooth_state(top, SmoothSum::first, parts_, fill_.tolerance, state_, stream_); });
        for (int64_t i = 0; i < fill_.max_iterations; ++i) {
            then([&] { return smooth_direction(top, type(), state_, z, p_, stream_); });
            then([&] { return smooth_product(top, type(), state_, p_, q_, parts_, stream_); });
            then([&] { return smooth_state(top, SmoothSum::product, parts_, fill_.tolerance, state_, stream_); });
            then([&] { return smooth_step(top, type(), state_, p_, q_, sum_, r, picture_, stream_); });
            if (i + 1 == fill_.max_iterations) break;
            then([&] { return smooth_residual(top, type(), state_, picture_, r, stream_); });
            v_cycle(state_);
            then([&] { return smooth_dots(top, type(), state_, r, q_, z, parts_, stream_); });
            then([&] { return smooth_state(top, SmoothSum::turn, parts_, fill_.tolerance, state_, stream_); });
        }
        then([&] { return smooth_store(top, fill_.dtype, picture_, sum_, fill_.out, fill_.strides, stream_); });
        return status_;
    }

  private:
    const SmoothFill& fill_;
    cudaStream_t stream_;
    Workspace workspace_;
    std::vector<SmoothLevel> levels_;
    std::vector<Planes> planes_;
    void *picture_ = nullptr, *p_ = nullptr, *q_ = nullptr, *sum_ = nullptr;
    double* parts_ = nullptr;
    SmoothState* state_ = nullptr;
    Status status_;

    DType type() const { return fill_.dtype == DType::f64 ? DType::f64 : DType::f32; }
    template <class Launch>
    void then(const Launch& launch) {
        if (status_.ok()) status_ = launch();
    }
    void* values(size_t number) { return number == 0 ? picture_ : planes_[number].x; }

    // The first guess. Its values and weights lie in x and rest, which are then cleared.
    void start() {
        const int64_t mask_pixels = fill_.mask_n * fill_.mask_c * levels_[0].pixels();
        then(
            [&] { return smooth_unknown(fill_.mask, mask_pixels, const_cast<uint8_t*>(levels_[0].unknown), stream_); });
        then([&] {
            return smooth_load(levels_[0], fill_.dtype, fill_.input, fill_.strides, picture_, planes_[0].rest, stream_);
        });
        for (size_t l = 1; l < levels_.size(); ++l) {
            then([&] {
                auto* const unknown = const_cast<uint8_t*>(levels_[l].unknown);
                return smooth_unknown_below(levels_[l - 1], levels_[l], unknown, stream_);
            });
            then([&] {
                return smooth_mean(
                    levels_[l - 1], levels_[l], type(), values(l - 1), planes_[l - 1].rest, values(l), planes_[l].rest,
                    stream_);
            });
        }
        for (size_t l = levels_.size() - 1; l-- > 0;)
            then([&] { return smooth_double(levels_[l], levels_[l + 1], type(), values(l + 1), values(l), stream_); });
        for (size_t l = 0; l < levels_.size(); ++l)
            for (void* const plane : {planes_[l].x, planes_[l].rest})
                then([&] { return smooth_zero(type(), plane, levels_[l].planes * levels_[l].pixels(), stream_); });
    }

    void v_cycle(const SmoothState* state) {
        const size_t count = levels_.size();
        for (size_t l = 0; l < count; ++l) {
            const Planes& of = planes_[l];
            then([&] { return smooth_down(levels_[l], type(), state, of.given, of.x, of.rest, stream_); });
            if (l + 1 < count)
                then([&] {
                    return smooth_restrict(
                        levels_[l], levels_[l + 1], type(), state, of.rest, planes_[l + 1].given, stream_);
                });
        }
        for (size_t l = count; l-- > 0;) {
            const Planes& of = planes_[l];
            const bool last = l + 1 == count;
            then([&] {
                return smooth_up(
                    levels_[l], last ? nullptr : &levels_[l + 1], type(), state, last ? nullptr : planes_[l + 1].x,
                    of.rest, of.x, stream_);
            });
        }
    }
};

}  // namespace

int64_t smooth_workspace(const SmoothFill& fill) { return Run(fill, nullptr, cudaStream_t{}).used(); }

Status run_smooth(const SmoothFill& fill, void* workspace, cudaStream_t stream) {
    return Run(fill, workspace, stream)();
}

}  // namespace pconv::cuda
