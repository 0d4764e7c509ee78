// The gradient's one pass against plain loops, and twice under different schedules: the bits have to be the same.
#include "plain_support.h"
#include "runtime.h"

namespace {

struct ScaleCase {
    int64_t n, k, p, q, ratio_groups;
    bool ratio_of_each, write, sum;  // ratio_n is N, scaled is wanted, db is wanted
    Room room;
    int64_t more_padding;
};

void check_scale_gradient(DType dtype, Layout layout, const ScaleCase& at) {
    const DType real = dtype == DType::f64 ? DType::f64 : DType::f32;
    const int64_t ratio_n = at.ratio_of_each ? at.n : 1, k_padded = padded(at.k + at.more_padding, dtype);
    Geometry g{};
    g.n = at.n, g.k = at.k, g.p = at.p, g.q = at.q, g.groups = at.ratio_groups, g.dtype = dtype, g.layout = layout;
    const Array ratio(real, ratio_n * at.ratio_groups * at.p * at.q);
    for (int64_t i = 0; i < ratio.count; ++i) ratio.set(i, chance(0.3) ? 0 : 1.5 + random_value());
    const auto ratio_at = [&](int64_t n, int64_t k, int64_t p, int64_t q) {
        const int64_t plane = (ratio_n == 1 ? 0 : n) * at.ratio_groups + k / (at.k / at.ratio_groups);
        return ratio.get((plane * at.p + p) * at.q + q);
    };
    const Tensor grad = random_tensor(dtype, layout, at.n, at.k, at.p, at.q, at.room);
    for_each(grad.sizes, [&](auto... i) {
        if (!(ratio_at(i...) > 0)) grad.set(i..., nan_value);  // a dead window's gradient must not matter
    });
    const auto run = [&](const Array& scaled, const Array& db) {
        const Array workspace(DType::u8, scale_gradient_workspace(g));
        return scale_gradient(
            g, grad.data(), grad.strides, ratio.data(), ratio_n, at.ratio_groups, k_padded,
            at.write ? scaled.data() : nullptr, at.sum ? db.data() : nullptr, workspace.data(), nullptr);
    };
    const Array scaled(dtype, at.n * at.p * at.q * k_padded), db(dtype, at.k);
    const Array scaled_again(dtype, scaled.count), db_again(dtype, at.k);
    const std::string what = describe(
        "%s %s %dx%dx%dx%d, %d ratio groups", name_of(dtype), layout_name(layout), int(at.n), int(at.k), int(at.p),
        int(at.q), int(at.ratio_groups));
    Check check("scale_gradient", what, run(scaled, db));
    emu::set_policy(emu::last_warp_first);
    if (!few_cases) check.that(run(scaled_again, db_again).ok(), "second launch", 0, 0);
    emu::set_policy(emu::oldest_first);
    check.that(few_cases || scaled.same_bits(scaled_again) && db.same_bits(db_again), "the same bits again", 0, 1);
    for (int64_t i = 0; at.write && i < scaled.count; ++i) {
        const int64_t k = i % k_padded, pixel = i / k_padded, q = pixel % at.q, p = pixel / at.q % at.p;
        const int64_t n = pixel / at.q / at.p;
        const double factor = k < at.k ? ratio_at(n, k, p, q) : 0;
        const double expected = factor > 0 ? factor * grad.get(n, k, p, q) : 0;
        check.close("scaled", dtype, scaled.get(i), expected, std::fabs(expected));
    }
    for (int64_t k = 0; at.sum && k < at.k; ++k) {
        double sum = 0, size = 0;
        for (int64_t n = 0; n < at.n; ++n)
            for (int64_t p = 0; p < at.p; ++p)
                for (int64_t q = 0; q < at.q; ++q)
                    if (ratio_at(n, k, p, q) > 0) {
                        sum += grad.get(n, k, p, q);
                        size += std::fabs(grad.get(n, k, p, q));
                    }
        check.close("db", dtype, db.get(k), sum, size);
    }
}

}  // namespace

void test_scale_gradient() {
    const ScaleCase cases[] = {
        {2, 3, 5, 7, 1, true, true, true, {}, 0},         {2, 6, 4, 3, 2, true, true, true, {}, 0},
        {3, 72, 9, 6, 1, false, true, true, {}, 0},       {3, 72, 9, 6, 1, true, true, true, {0, 0, 1}, 0},
        {2, 8, 4, 5, 4, false, true, true, {8, 1, 0}, 0}, {1, 33, 9, 8, 1, true, true, true, {}, 40},
        {2, 40, 1, 1, 1, true, true, true, {}, 0},        {1, 1, 1, 1, 1, true, true, true, {}, 0},
        {0, 5, 3, 3, 1, false, true, true, {}, 0},        {2, 5, 0, 3, 1, false, true, true, {}, 0},
        {1, 1000, 1, 2, 1, false, true, true, {}, 0},     {2, 12, 3, 3, 1, true, false, true, {}, 0},
        {2, 12, 3, 3, 1, true, true, false, {}, 0},       {1, 3, 40, 41, 1, true, true, true, {}, 0},
        {2, 12, 3, 3, 1, true, true, true, {4, 0, 0}, 0}, {2, 16, 3, 2, 1, true, true, true, {0, 0, 0, 2}, 0},
        {3, 16, 2, 2, 1, false, true, true, {}, 0},       {2, 16, 2, 3, 1, true, true, true, {0, 1, 0}, 0},
    };
    for (DType dtype : float_types)
        for (Layout layout : layouts)
            for (const ScaleCase& at : cases)
                if (!few_cases || (at.k == 72 && at.room.lead == 0) || (at.k == 3 && at.p > 5))
                    check_scale_gradient(dtype, layout, at);
}
