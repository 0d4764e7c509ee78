// Ratios and new masks of windows over three axes against loops that go from each input position and tap to the output
// that sees it, the other way round than the kernel.
#include "plain_support.h"

namespace {

struct Problem {
    Windows windows;
    int64_t n, groups;
};

// in, window, (out), stride, pad, dilation
const Problem problems[] = {
    {{{{3, 3, 0, 1, 1, 1}, {4, 2, 0, 2, 0, 1}, {5, 3, 0, 1, 2, 2}}, false, 2, DType::f32}, 2, 1},
    {{{{1, 1, 0, 1, 0, 1}, {5, 3, 0, 1, 1, 1}, {6, 3, 0, 2, 1, 1}}, false, 1, DType::f64}, 1, 4},
    {{{{2, 2, 0, 3, 0, 1}, {3, 3, 0, 2, 1, 1}, {4, 2, 0, 2, 0, 3}}, true, 3, DType::f32}, 2, 2},
    {{{{1, 1, 0, 1, 0, 1}, {4, 4, 0, 2, 1, 1}, {3, 3, 0, 3, 2, 2}}, true, 2, DType::f64}, 1, 1},
    {{{{2, 1, 0, 2, 0, 1}, {1, 1, 0, 1, 0, 1}, {7, 5, 0, 1, 3, 1}}, true, 4, DType::f32}, 2, 1},
};

// Where the input position `at` is seen through a tap; -1: nowhere.
int64_t output_of(const Axis& axis, bool transposed, int64_t at, int64_t tap) {
    const int64_t shift = axis.pad - tap * axis.dilation;
    int64_t out = transposed ? at * axis.stride - shift : at + shift;
    if (!transposed) {
        if (out % axis.stride != 0) return -1;
        out /= axis.stride;
    }
    return out >= 0 && out < axis.out ? out : -1;
}

// visit(at, out) for every input position, from `margin` before the first to as many behind the last, and every tap.
template <class Visit>
void for_pairs(const Axis& axis, bool transposed, int64_t margin, const Visit& visit) {
    for (int64_t at = -margin; at < axis.in + margin; ++at)
        for (int64_t tap = 0; tap < axis.window; ++tap) {
            const int64_t out = output_of(axis, transposed, at, tap);
            if (out >= 0) visit(at, out);
        }
}

void check_windows(const Problem& problem, Holes holes) {
    const Windows& w = problem.windows;
    const Axis &a = w.axis[0], &b = w.axis[1], &c = w.axis[2];
    const int64_t channels = w.channels * problem.groups;
    // Depth and rows are one axis of the mask.
    const TestMask mask = make_mask(holes, problem.n, channels, a.in * b.in, c.in);
    const int64_t n = mask.n == 1 ? 1 : problem.n, groups = mask.per_channel() ? problem.groups : 1;
    const int64_t outputs = a.out * b.out * c.out, total = n * groups * outputs;
    std::vector<int64_t> counts(total, 0), full(outputs, 0);
    for_pairs(a, w.transposed, 20, [&](int64_t depth, int64_t o) {
        for_pairs(b, w.transposed, 20, [&](int64_t row, int64_t p) {
            for_pairs(c, w.transposed, 20, [&](int64_t column, int64_t q) {
                const int64_t out = (o * b.out + p) * c.out + q;
                full[out] += w.channels;
                if (depth < 0 || depth >= a.in || row < 0 || row >= b.in || column < 0 || column >= c.in) return;
                for (int64_t image = 0; image < n; ++image)
                    for (int64_t group = 0; group < groups; ++group)
                        for (int64_t channel = group * w.channels; channel < (group + 1) * w.channels; ++channel)
                            counts[(image * groups + group) * outputs + out] +=
                                mask.valid(image, channel, depth * b.in + row, column);
            });
        });
    });
    const DType real = w.dtype;
    const Array ratio(real, total), new_mask(DType::u8, total);
    const std::string what = describe(
        "%s, mask %s, %d x %d channels%s", name_of(real), name_of(holes), int(problem.groups), int(w.channels),
        w.transposed ? ", transposed" : "");
    Check check(
        "windows_ratio", what, windows_ratio({w, mask.view, ratio.data(), new_mask.data(), n, groups}, nullptr));
    for (int64_t i = 0; i < total; ++i) {
        const double wide = counts[i] > 0 ? double(full[i % outputs]) / double(counts[i]) : 0;
        check.exact("ratio", ratio.get(i), real == DType::f64 ? wide : double(float(wide)));
        check.exact("new_mask", new_mask.get(i), counts[i] > 0);
    }
}

}  // namespace

void test_windows() {
    for (Problem problem : problems) {
        for (Axis& axis : problem.windows.axis) {
            const int64_t reach = axis.dilation * (axis.window - 1) + 1;
            axis.out = problem.windows.transposed
                           ? (axis.in - 1) * axis.stride - 2 * axis.pad + reach
                           : output_size(axis.in, axis.window, axis.stride, axis.pad, axis.dilation);
        }
        for (const Holes holes : all_holes) {
            if (holes == Holes::two_blocks) continue;  // of a decoder stage alone
            check_windows(problem, holes);
        }
    }
}
