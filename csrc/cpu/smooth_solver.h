// One hole of smooth_fill: conjugate gradients with a V-cycle of a multigrid as preconditioner. pconv_cuda/smooth.py is
// the same in plain torch, and says why each step is as it is.
#pragma once

#include "numeric.h"
#include "parallel.h"
#include "smooth_passes.h"
#include "smooth_reflect.h"

namespace pconv::cpu {
namespace {

constexpr int kDegree = 3;           // of the smoother's polynomial, as in smooth.py
constexpr double kRange = 20;        // it is small on [largest / kRange, largest]
constexpr int64_t kChunk = 128;      // blocks that a sum's part is taken over
constexpr int64_t kLeastChunks = 8;  // a thread gets at least so many
// Rounding errors accumulate in the iteration. Each time the error has fallen so far the residual is formed anew.
constexpr double kRenew = 1e-2;
// p A p is about r z. Far below it the direction is rounding error.
constexpr double kLost = 1.0 / 16;
constexpr double kGrown = 16;  // growth of r z over its least value that means rounding errors dominate

// One hole, in one plane of the picture after the other.
template <class T>
class Solver {
  public:
    explicit Solver(const SmoothLevels& levels)
        : window_(levels.window()),
          levels_(levels.all()),
          picture_(levels_[0].size),
          direction_(levels_[0].size),
          q_(levels_[0].mask.size()),
          sum_(levels_[0].mask.size()) {
        work_.reserve(levels_.size());
        for (const SmoothLevel& level : levels_) {
            Work& work = work_.emplace_back(level);
            for (auto* packed : {&work.x, &work.rest, &work.r}) packed->resize(level.mask.size());
        }
    }

    // in and out: a plane of the picture, [.., width], `step` elements from pixel to pixel. Only the hole is written.
    template <class V>
    void fill(const V* in, int64_t width, int64_t step, double tolerance, int64_t max_iterations, V* out) {
        const int64_t origin = (window_.y * width + window_.x) * step;
        start(in + origin, width, step);
        solve(tolerance, max_iterations);
        const SmoothLevel& level = levels_[0];
        chunks(level.unknown.size(), [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b) {
                const SmoothBlock& block = level.unknown[b];
                for (int64_t i = 0; i < kBlock; ++i)
                    if (level.mask[b * kBlock + i] != 0)
                        store(
                            out[origin + (block.y * width + block.x + i) * step],
                            precise_t<V>(picture_.data()[block.offset + i] + sum_[b * kBlock + i]));
            }
        });
    }

  private:
    struct Work {
        explicit Work(const SmoothLevel& level) : even(level.size), odd(level.size) {}
        Plane<T> even, odd;
        std::vector<T> x, rest, r;
    };

    const SmoothWindow window_;
    const std::vector<SmoothLevel>& levels_;
    Plane<T> picture_, direction_;
    std::vector<Work> work_;
    std::vector<T> q_, sum_;

    template <class Body>
    static void chunks(size_t blocks, const Body& body) {
        const int64_t count = int64_t(blocks), parts = (count + kChunk - 1) / kChunk;
        parallel_for(parts, kLeastChunks, [&](int64_t first, int64_t last) {
            for (int64_t part = first; part < last; ++part) body(part * kChunk, std::min((part + 1) * kChunk, count));
        });
    }
    template <class Body>
    static double summed(size_t blocks, const Body& body) {
        std::vector<double> parts((blocks + kChunk - 1) / kChunk);
        chunks(blocks, [&](int64_t begin, int64_t end) { parts[size_t(begin / kChunk)] = body(begin, end); });
        double total = 0;
        for (const double part : parts) total += part;
        return total;
    }

    SmoothPass<T> pass_of(size_t number) {
        const SmoothLevel& level = levels_[number];
        SmoothPass<T> a{};
        a.blocks = level.unknown.data(), a.mask = level.mask.data(), a.pitch = level.pitch;
        a.centre = T(20 * level.stiffness + 4 * level.tension), a.side = T(-8 * level.stiffness - level.tension);
        a.diagonal = T(2 * level.stiffness), a.far = T(level.stiffness);
        a.r = work_[number].r.data(), a.x = work_[number].x.data(), a.rest = work_[number].rest.data();
        a.q = q_.data(), a.sum = sum_.data();
        return a;
    }
    void run(size_t number, const SmoothPass<T>& a, void (*pass)(const SmoothPass<T>&, int64_t, int64_t)) {
        chunks(levels_[number].unknown.size(), [&](int64_t begin, int64_t end) { pass(a, begin, end); });
    }
    double run(size_t number, const SmoothPass<T>& a, double (*pass)(const SmoothPass<T>&, int64_t, int64_t)) {
        return summed(levels_[number].unknown.size(), [&](int64_t begin, int64_t end) { return pass(a, begin, end); });
    }
    void reflect_unknown(size_t number, T* plane, Beyond beyond = Beyond::reflected) {
        reflect(levels_[number], levels_[number].unknown, levels_[number].unknown_border, plane, beyond);
    }

    // ---- the start: means of the known pixels beside the holes, level by level, and back up into the holes

    void clear(size_t number) {
        const SmoothLevel& level = levels_[number];
        for (T* plane : {work_[number].even.data(), work_[number].odd.data()}) {
            chunks(level.near.size(), [&](int64_t begin, int64_t end) {
                for (int64_t b = begin; b < end; ++b) std::fill_n(plane + level.near[b].offset, kBlock, T(0));
            });
            reflect(level, level.near, level.near_border, plane);
        }
    }

    template <class V>
    void start(const V* in, int64_t width, int64_t step) {
        const SmoothLevel& top = levels_[0];
        for (size_t number = 0; number < levels_.size(); ++number) clear(number);
        T *const picture = picture_.data(), *const weight = work_[0].odd.data();
        chunks(top.near.size(), [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b) {
                const SmoothBlock& block = top.near[b];
                for (int64_t i = 0; i < std::min<int64_t>(kBlock, top.w - block.x); ++i) {
                    picture[block.offset + i] = T(load(in[(block.y * width + block.x + i) * step]));
                    // Only pixels beside the hole count; others may be infinite.
                    weight[block.offset + i] = T(top.beside[b * kBlock + i]);
                }
            }
        });
        chunks(top.unknown.size(), [&](int64_t begin, int64_t end) {  // holes are not read: they may hold anything
            for (int64_t b = begin; b < end; ++b)
                for (int64_t i = 0; i < kBlock; ++i)
                    if (top.mask[b * kBlock + i] != 0) picture[top.unknown[b].offset + i] = 0;
        });
        for (size_t number = 1; number < levels_.size(); ++number) {
            SmoothPass<T> a = pass_of(number);
            a.blocks = levels_[number].near.data();
            a.from = values(number - 1), a.from_weight = work_[number - 1].odd.data();
            a.from_pitch = levels_[number - 1].pitch, a.from_first = levels_[number - 1].at(0, 0);
            a.to = values(number), a.weight = work_[number].odd.data();
            chunks(levels_[number].near.size(), [&](int64_t begin, int64_t end) { mean(a, begin, end); });
        }
        for (size_t number = levels_.size(); number-- > 0;) {
            const SmoothLevel& level = levels_[number];
            if (number + 1 < levels_.size()) {
                SmoothPass<T> a = pass_of(number);
                a.from = values(number + 1), a.to = values(number);
                a.from_pitch = levels_[number + 1].pitch, a.from_first = levels_[number + 1].at(0, 0);
                run(number, a, filled);
            }
            reflect(level, level.near, level.near_border, values(number));
        }
        for (size_t number = 0; number < levels_.size(); ++number) clear(number);
    }
    T* values(size_t number) { return number == 0 ? picture_.data() : work_[number].even.data(); }

    // ---- the solution

    static double largest(const SmoothLevel& level) { return 64 * level.stiffness + 8 * level.tension; }
    static T first_scale(const SmoothLevel& level) { return T(2 / (largest(level) * (1 + 1 / kRange))); }

    // The smoother's further steps: the plane that `from` is, and the one that its last result is in.
    T* smooth_on(size_t number, SmoothPass<T> a, T* from, T* to, bool last_is_x) {
        const double top = largest(levels_[number]), centre = top * (1 + 1 / kRange) / 2,
                     radius = top * (1 - 1 / kRange) / 2;
        double rho = radius / centre;
        for (int k = 1; k < kDegree; ++k) {
            const double following = 1 / (2 * centre / radius - rho);
            reflect_unknown(number, from);
            a.from = from, a.to = to;
            a.keep = T(following * rho), a.add = T(2 * following / radius);
            run(number, a, last_is_x && k + 1 == kDegree ? pass_type(smooth_last) : pass_type(smooth));
            rho = following;
            std::swap(from, to);
        }
        return from;
    }
    using Pass = void (*)(const SmoothPass<T>&, int64_t, int64_t);
    static Pass pass_type(Pass pass) { return pass; }

    // What follows the first step of the first smoothing, whose result lies in x and in the even plane. The result is
    // in x, and in the plane that is returned, reflected.
    T* v_cycle(size_t number) {
        T *even = work_[number].even.data(), *odd = work_[number].odd.data();
        SmoothPass<T> a = pass_of(number);
        a.scale = first_scale(levels_[number]);
        T* from = smooth_on(number, a, even, odd, false);
        T* to = from == even ? odd : even;
        reflect_unknown(number, from);
        a.from = from, a.to = to;
        run(number, a, rest);
        std::swap(from, to);
        if (!levels_[number + 1].unknown.empty()) {
            reflect_unknown(number, from, Beyond::nothing_if_odd);
            SmoothPass<T> below = pass_of(number + 1);
            below.from = from, below.from_pitch = levels_[number].pitch, below.from_first = levels_[number].at(0, 0);
            below.to = work_[number + 1].even.data();
            below.scale = first_scale(levels_[number + 1]);
            run(number + 1, below, restricted);
            run(number + 1, below, first);
            a.from = v_cycle(number + 1);
            a.from_pitch = levels_[number + 1].pitch, a.from_first = levels_[number + 1].at(0, 0);
            a.to = to;
            run(number, a, doubled);
            reflect_unknown(number, to);
            a.from = to, a.to = from;
            run(number, a, corrected);
        } else {  // rest lies in `from`
            a.from = from, a.to = to;
            chunks(levels_[number].unknown.size(), [&](int64_t begin, int64_t end) {
                for (int64_t b = begin; b < end; ++b)
                    for (int64_t i = 0; i < kBlock; ++i)
                        a.x[b * kBlock + i] += a.to[a.blocks[b].offset + i] = a.scale * a.rest[b * kBlock + i];
            });
            std::swap(from, to);
        }
        from = smooth_on(number, a, from, from == even ? odd : even, number > 0);
        if (number > 0) reflect_unknown(number, from);
        return from;
    }

    // r = -plate(picture), and the first step of the smoother behind it.
    void renew_residual(SmoothPass<T> a) {
        a.from = picture_.data();
        run(0, a, residual);
        run(0, a, first);
    }

    // picture += sum, sum = 0
    void take_in_sum() {
        const SmoothLevel& level = levels_[0];
        chunks(level.unknown.size(), [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b)
                for (int64_t i = 0; i < kBlock; ++i) {
                    picture_.data()[level.unknown[b].offset + i] += sum_[b * kBlock + i];
                    sum_[b * kBlock + i] = 0;
                }
        });
        reflect(level, level.near, level.near_border, picture_.data());
    }

    void solve(double tolerance, int64_t max_iterations) {
        SmoothPass<T> a = pass_of(0);
        T *const p = direction_.data(), *const even = work_[0].even.data();
        std::fill(sum_.begin(), sum_.end(), T(0));
        a.scale = first_scale(levels_[0]);
        a.to = even;
        renew_residual(a);
        v_cycle(0);
        double rz = run(0, a, dot), renew = kRenew * kRenew * rz, least = rz;
        const double goal = tolerance * tolerance * rz;
        chunks(levels_[0].unknown.size(), [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b) std::copy_n(a.x + b * kBlock, kBlock, p + a.blocks[b].offset);
        });
        // Where a known pixel beside the hole is NaN no comparison holds, and the hole becomes NaN.
        for (int64_t i = 0; i < max_iterations && !(rz <= goal); ++i) {
            reflect_unknown(0, p);
            a.from = p;
            const double pq = run(0, a, product), step = rz / pq;
            if (pq < kLost * rz) break;
            a.keep = T(step), a.to = even;
            run(0, a, step_and_first);
            if (i + 1 == max_iterations || pq != pq) break;
            if (rz < renew) {
                take_in_sum();
                renew_residual(a);
                renew *= kRenew * kRenew;
            }
            v_cycle(0);
            // Polak and Ribiere's form, (r - previous r) z / previous r z, with r - previous r = -step q.
            SmoothPass<T> qz = a;
            qz.r = a.q;
            const double turn = -step * run(0, qz, dot) / rz;
            rz = run(0, a, dot);
            if (rz > kGrown * least) break;
            least = std::min(least, rz);
            a.keep = T(turn), a.to = p;
            run(0, a, direction);
        }
    }
};

}  // namespace
}  // namespace pconv::cpu
