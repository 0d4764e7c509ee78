// smooth_fill's kernels, emulated, against a direct solution of the equation by elimination: ragged shapes of one and
// of several tiles, every dtype, both layouts, every kind of mask. Exit status 1 where a value differs.
//
//   test_smooth [PART ...]   equation, kinds, precision, pace; all of them where none is given
#include "plain_support.h"

#include "cuda/smooth/smooth.h"

namespace {

struct Case {
    int64_t n, c, h, w;
    int64_t mask_n, mask_c;
    DType dtype;
    Layout layout;
    double tension, tolerance;
    int64_t iterations;
    bool wide = false;  // a hole of all but a frame
};

using Matrix = std::vector<std::vector<double>>;

int64_t repeated(int64_t i, int64_t size) { return i < 0 ? 0 : i >= size ? size - 1 : i; }

// L as a matrix over the pixels: where a neighbour is beyond the border it is the pixel itself.
Matrix laplacian(int64_t h, int64_t w) {
    Matrix out(size_t(h * w), std::vector<double>(size_t(h * w)));
    for (int64_t y = 0; y < h; ++y)
        for (int64_t x = 0; x < w; ++x) {
            auto& row = out[size_t(y * w + x)];
            row[size_t(y * w + x)] -= 4;
            for (int64_t step : {-1, 1}) {
                row[size_t(repeated(y + step, h) * w + x)] += 1;
                row[size_t(y * w + repeated(x + step, w))] += 1;
            }
        }
    return out;
}

// Where known, the picture; where not, what solves (1 - tension) L L u = tension L u.
std::vector<double> direct(
    const std::vector<double>& picture, const std::vector<bool>& valid, int64_t h, int64_t w, double tension) {
    const Matrix l = laplacian(h, w);
    const size_t count = picture.size();
    std::vector<double> u = picture;
    std::vector<size_t> holes;
    for (size_t i = 0; i < count; ++i)
        if (!valid[i]) holes.push_back(i);
    Matrix a;
    for (const size_t hole : holes) {
        std::vector<double> row(count);
        for (size_t k = 0; k < count; ++k) {
            if (l[hole][k] == 0) continue;
            for (size_t j = 0; j < count; ++j) row[j] += (1 - tension) * l[hole][k] * l[k][j];
            row[k] -= tension * l[hole][k];
        }
        std::vector<double> equation;
        double right = 0;
        for (const size_t other : holes) equation.push_back(row[other]);
        for (size_t j = 0; j < count; ++j)
            if (valid[j]) right -= row[j] * picture[j];
        equation.push_back(right);
        a.push_back(equation);
    }
    const size_t unknowns = holes.size();  // the matrix is positive definite: no pivots are looked for
    for (size_t i = 0; i < unknowns; ++i)
        for (size_t j = i + 1; j < unknowns; ++j) {
            const double factor = a[j][i] / a[i][i];
            if (factor == 0) continue;
            for (size_t k = i; k <= unknowns; ++k) a[j][k] -= factor * a[i][k];
        }
    for (size_t i = unknowns; i-- > 0;) {
        double value = a[i][unknowns];
        for (size_t k = i + 1; k < unknowns; ++k) value -= a[i][k] * u[holes[k]];
        u[holes[i]] = value / a[i][i];
    }
    return u;
}

void run(const char* part, Case k, double base, double allowed) {
    if (few_cases)
        k.iterations = 2, allowed = 1e9;  // ThreadSanitizer is slow, and a race does not wait for the solution
    const Tensor input = random_tensor(k.dtype, k.layout, k.n, k.c, k.h, k.w);
    const int64_t pixels = k.h * k.w;
    const Array mask(DType::u8, k.mask_n * k.mask_c * pixels);
    for (int64_t i = 0; i < mask.count; ++i) {
        const int64_t y = i / k.w % k.h, x = i % k.w;
        const bool framed = y >= 4 && y < k.h - 4 && x >= 4 && x < k.w - 4;
        const bool hole = k.wide ? framed : (y >= k.h / 4 && y < k.h / 4 + 9 && x < 11) || chance(0.25);
        mask.set(i, i % pixels == pixels - 1 ? 255 : hole ? 0 : 1);
    }
    const auto byte_of = [&](int64_t n, int64_t c, int64_t i) {
        return mask.get(((k.mask_n == 1 ? 0 : n) * k.mask_c + (k.mask_c == 1 ? 0 : c)) * pixels + i);
    };
    for_each(input.sizes, [&](int64_t n, int64_t c, int64_t y, int64_t x) {
        const bool valid = byte_of(n, c, y * k.w + x) != 0;
        input.set(n, c, y, x, valid ? base + input.get(n, c, y, x) : nan_value);
    });
    for (int64_t n = 0; n < k.n; ++n)  // a valid pixel's sign is one of its bits, and its last pixel is valid
        for (int64_t c = 0; c < k.c; ++c) input.set(n, c, k.h - 1, k.w - 1, -0.0);
    Tensor out = make_tensor(k.dtype, k.layout, k.n, k.c, k.h, k.w);
    std::memcpy(out.data(), input.data(), size_t(out.array.count) * size_of(k.dtype));

    SmoothFill fill{};
    fill.n = k.n, fill.c = k.c, fill.h = k.h, fill.w = k.w, fill.dtype = k.dtype;
    fill.input = input.data(), fill.strides = input.strides, fill.out = out.data();
    fill.mask = mask.data(), fill.mask_n = k.mask_n, fill.mask_c = k.mask_c;
    fill.tension = k.tension, fill.tolerance = k.tolerance, fill.max_iterations = k.iterations;
    const Array workspace(DType::u8, smooth_workspace(fill));
    std::memset(workspace.data(), 0, size_t(workspace.count));
    const Status status = run_smooth(fill, workspace.data(), nullptr);
    Check check(
        part,
        describe(
            "%s %s %dx%dx%dx%d, mask %dx%d, tension %g", name_of(k.dtype), layout_name(k.layout), int(k.n), int(k.c),
            int(k.h), int(k.w), int(k.mask_n), int(k.mask_c), k.tension),
        status);
    for (int64_t n = 0; n < k.n; ++n)
        for (int64_t c = 0; c < k.c; ++c) {
            std::vector<double> picture;
            std::vector<bool> valid;
            for (int64_t i = 0; i < pixels; ++i) {
                valid.push_back(byte_of(n, c, i) != 0);
                picture.push_back(valid.back() ? input.get(n, c, i / k.w, i % k.w) : 0);
            }
            const std::vector<double> truth = direct(picture, valid, k.h, k.w, k.tension);
            for (int64_t i = 0; i < pixels; ++i) {
                const double got = out.get(n, c, i / k.w, i % k.w), expected = truth[size_t(i)];
                const double rounding = k.dtype == DType::bf16 ? 0x1p-8 : k.dtype == DType::f16 ? 0x1p-11 : 0;
                const double most = allowed + rounding * std::fabs(expected);
                const bool same = got == expected && std::signbit(got) == std::signbit(expected);
                check.that(valid[size_t(i)] ? same : std::fabs(got - expected) <= most, "u", got, expected);
            }
        }
}

constexpr Layout nchw = Layout::nchw, nhwc = Layout::nhwc;

void test_equation() {
    for (const double tension : {0.3, 0.0, 1.0}) {
        run("equation", {1, 1, 17, 13, 1, 1, DType::f64, nchw, tension, 1e-13, 60}, 0, 1e-9);
        if (few_cases) return;
        run("equation", {1, 1, 1, 29, 1, 1, DType::f64, nchw, tension, 1e-13, 60}, 0, 1e-9);
        run("equation", {1, 1, 25, 1, 1, 1, DType::f64, nchw, tension, 1e-13, 60}, 0, 1e-9);
        run("equation", {1, 1, 2, 3, 1, 1, DType::f64, nchw, tension, 1e-13, 60}, 0, 1e-9);
    }
    run("equation", {1, 1, 26, 27, 1, 1, DType::f64, nchw, 0.3, 1e-13, 60}, 0, 1e-9);
}

void test_kinds() {
    for (const DType dtype : float_types)
        for (const Layout layout : layouts) {
            if (few_cases && layout == nhwc) continue;
            const bool last = layout == nhwc;
            run("kinds", {2, 2, 9, 14, last ? 1 : 2, last ? 2 : 1, dtype, layout, 0.3, 1e-6, 30}, 0, 2e-5);
        }
    if (few_cases) return;
    run("kinds", {2, 3, 9, 14, 2, 3, DType::f32, nhwc, 0.3, 1e-6, 30}, 0, 2e-5);
    run("kinds", {2, 2, 9, 14, 1, 1, DType::f32, nchw, 0.3, 1e-6, 30}, 0, 2e-5);
}

// Values far above their differences: the residual in double, and formed anew, keeps what float's sums would lose.
void test_precision() { run("precision", {1, 1, 18, 13, 1, 1, DType::f32, nchw, 0.0, 1e-7, 40}, 3000, 1.5e-3); }

// What is wrong in a V-cycle the conjugate gradients put right, in more iterations.
void test_pace() { run("pace", {1, 1, 37, 38, 1, 1, DType::f64, nchw, 0.3, 0, 6, true}, 0, 1e-3); }

struct Part {
    const char* name;
    void (*run)();
};
const Part parts[] = {
    {"equation", test_equation}, {"kinds", test_kinds}, {"precision", test_precision}, {"pace", test_pace}};

}  // namespace

int main(int argc, char** argv) {
    bool right = true;
    int ran = 0;
    for (const Part& part : parts) {
        bool wanted = argc == 1;
        for (int i = 1; i < argc; ++i) wanted = wanted || std::strcmp(argv[i], part.name) == 0;
        if (!wanted) continue;
        part.run();
        ++ran;
        const Tally& tally = tallies()[part.name];
        std::printf(
            "%-10s %4lld cases %7lld values %5lld wrong\n", part.name, (long long)tally.cases, (long long)tally.values,
            (long long)tally.wrong);
        right = right && tally.values > 0 && tally.wrong == 0;
    }
    if (ran == 0 || (argc > 1 && ran != argc - 1)) {
        std::printf("a part that does not exist was asked for\n");
        right = false;
    }
    std::printf("%s\n", right ? "PASSED" : "FAILED");
    return right ? 0 : 1;
}
