// Masks, counts and the passes around a library's convolution against loops in double.
#include "plain_support.h"

namespace {

// ---- masks as bytes

void check_mask_bytes(DType dtype, const Tensor& mask, const char* what) {
    const int64_t total = mask.sizes[0] * mask.sizes[1] * mask.sizes[2] * mask.sizes[3];
    const Array out(DType::u8, total);
    alignas(8) unsigned long long odd = 77;
    const Status bytes = mask_to_bytes(mask.data(), dtype, mask.sizes, mask.strides.at, out.data(), nullptr);
    const Status count = count_not_binary(mask.data(), dtype, mask.sizes, mask.strides.at, &odd, nullptr);
    const std::string name = describe("%s %s", name_of(dtype), what);
    Check check("mask_to_bytes", name, bytes), check_count("count_not_binary", name, count);
    int64_t index = 0;
    unsigned long long expected_odd = 0;
    for_each(mask.sizes, [&](auto... at) {
        const double value = mask.get(at...);
        check.exact("byte", out.get(index++), value > 0 || value < 0 ? 1 : 0);
        expected_odd += !(value == 0 || value == 1);
    });
    check_count.exact("odd", double(odd), double(expected_odd));
}

void test_mask_bytes() {
    const double values[] = {0, -0.0, 1, 1, 0, 0.5, nan_value, -1, 1e-7};
    for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16, DType::u8})
        for (int kind = 0; kind < 5; ++kind) {
            if (few_cases && (dtype != DType::f32 || kind > 0)) continue;
            const Layout layout = kind == 1 ? Layout::nhwc : Layout::nchw;
            const int64_t side = kind == 4 ? 0 : 10;
            Tensor mask = make_tensor(dtype, layout, 2, kind == 3 ? 1 : 4, side, 11, {0, kind == 2 ? 3 : 0, 1});
            for_each(mask.sizes, [&](auto... at) {
                const double value = values[random_bits() % 9];
                mask.set(at..., dtype == DType::u8 ? double(random_bits() % 3) : value);
            });
            if (kind == 3) mask.sizes[1] = 4, mask.strides.at[1] = 0;  // expanded
            const char* const names[] = {"contiguous", "channels_last", "cropped", "expanded", "empty"};
            check_mask_bytes(dtype, mask, names[kind]);
        }
}

// ---- counts, and the passes around a convolution

const Geometry problems[] = {
    // n c h w, k r s, p q, stride, pad, dilation, groups
    {2, 3, 5, 4, 5, 3, 3, 0, 0, 1, 1, 1, 1, 1, 1, 1, Layout::nchw, DType::f32},
    {1, 6, 7, 6, 4, 3, 2, 0, 0, 2, 1, 1, 0, 1, 2, 2, Layout::nchw, DType::f32},
    {2, 4, 4, 5, 4, 2, 2, 0, 0, 2, 2, 0, 0, 1, 1, 4, Layout::nchw, DType::f32},
    {1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 1, 1, 1, Layout::nchw, DType::f32},
    {2, 2, 12, 11, 4, 3, 3, 0, 0, 1, 1, 1, 1, 1, 1, 1, Layout::nchw, DType::f32},  // a second round of the grid
    {2, 8, 4, 4, 16, 3, 3, 0, 0, 1, 1, 1, 1, 1, 1, 2, Layout::nchw, DType::f32},   // 16 bytes at once in every dtype
    {0, 2, 3, 3, 2, 3, 3, 0, 0, 1, 1, 1, 1, 1, 1, 1, Layout::nchw, DType::f32},
};

struct Windows {
    Array ratio, new_mask;
    int64_t n, groups;
    double at(const Geometry& g, int64_t image, int64_t k, int64_t p, int64_t q) const {
        const int64_t group = groups == 1 ? 0 : k / (g.k / groups);
        return ratio.get((((n == 1 ? 0 : image) * groups + group) * g.p + p) * g.q + q);
    }
};

// visit(r, s, h, w) for the taps of a window that lie inside the image.
template <class Visit>
void for_taps(const Geometry& g, int64_t p, int64_t q, const Visit& visit) {
    for (int64_t r = 0; r < g.r; ++r)
        for (int64_t s = 0; s < g.s; ++s) {
            const int64_t h = p * g.stride_h - g.pad_h + r * g.dil_h, w = q * g.stride_w - g.pad_w + s * g.dil_w;
            if (h >= 0 && h < g.h && w >= 0 && w < g.w) visit(r, s, h, w);
        }
}

Windows check_window_ratio(const Geometry& g, const TestMask& mask, const std::string& what) {
    const int64_t n = mask.n == 1 ? 1 : g.n, groups = mask.per_channel() ? g.groups : 1, channels = g.c / g.groups;
    const DType real = g.dtype == DType::f64 ? DType::f64 : DType::f32;
    const Windows out{Array(real, n * groups * g.p * g.q), Array(DType::u8, n * groups * g.p * g.q), n, groups};
    Check check(
        "window_ratio", what, window_ratio({g, mask.view, out.ratio.data(), out.new_mask.data(), n, groups}, nullptr));
    const int64_t sizes[4] = {n, groups, g.p, g.q};
    int64_t index = 0;
    for_each(sizes, [&](int64_t image, int64_t group, int64_t p, int64_t q) {
        int64_t count = 0;
        for_taps(g, p, q, [&](int64_t, int64_t, int64_t h, int64_t w) {
            for (int64_t c = group * channels; c < (group + 1) * channels; ++c) count += mask.valid(image, c, h, w);
        });
        const double full = double(channels * g.r * g.s), wide = count > 0 ? full / double(count) : 0;
        check.exact("ratio", out.ratio.get(index), real == DType::f64 ? wide : double(float(wide)));
        check.exact("new_mask", out.new_mask.get(index++), count > 0);
    });
    return out;
}

// `shift`: elements by which tensors begin past a multiple of 16 bytes.
void check_masked_copy(const Geometry& g, const TestMask& mask, bool in_place, int64_t shift, const std::string& what) {
    const Room room{0, 0, shift};
    const Tensor x = make_tensor(g.dtype, g.layout, g.n, g.c, g.h, g.w, room);
    for_each(x.sizes, [&](auto... at) { x.set(at..., random_value()); });
    for_each(x.sizes, [&](auto... at) {
        if (!mask.valid(at...)) x.set(at..., nan_value);  // what lies in a hole must not matter
    });
    const Tensor out = in_place ? x : make_tensor(g.dtype, g.layout, g.n, g.c, g.h, g.w, room);
    std::vector<double> expected;
    for_each(x.sizes, [&](auto... at) { expected.push_back(mask.valid(at...) ? x.get(at...) : 0); });
    Check check("masked_copy", what, masked_copy({g, mask.view, x.data(), out.data()}, nullptr));
    size_t index = 0;
    for_each(x.sizes, [&](auto... at) { check.exact("value", out.get(at...), expected[index++]); });
}

void check_renormalise(
    const Geometry& g, const Windows& windows, const Array* bias, double negative_slope, int64_t shift,
    const std::string& what) {
    const Tensor y = make_tensor(g.dtype, g.layout, g.n, g.k, g.p, g.q, {0, 0, shift});
    for_each(y.sizes, [&](int64_t n, int64_t k, int64_t p, int64_t q) {
        y.set(n, k, p, q, windows.at(g, n, k, p, q) > 0 ? random_value() : nan_value);
    });
    std::vector<double> before;
    for_each(y.sizes, [&](auto... at) { before.push_back(y.get(at...)); });
    const Status status = renormalise(
        {g, windows.ratio.data(), windows.n, windows.groups, bias ? bias->data() : nullptr, negative_slope, y.data()},
        nullptr);
    Check check("renormalise", what, status);
    size_t index = 0;
    for_each(y.sizes, [&](int64_t n, int64_t k, int64_t p, int64_t q) {
        const double ratio = windows.at(g, n, k, p, q), b = bias ? bias->get(k) : 0, own = before[index++];
        const double value = ratio > 0 ? ratio * own + b : 0, expected = value < 0 ? negative_slope * value : value;
        check.close("y", g.dtype, y.get(n, k, p, q), expected, ratio > 0 ? ratio * std::fabs(own) + std::fabs(b) : 0);
    });
}

void check_passes(const Geometry& g, Holes holes) {
    const std::string what = describe(
        "%s %s, mask %s, %dx%dx%dx%d groups %d", name_of(g.dtype), layout_name(g.layout), name_of(holes), int(g.n),
        int(g.c), int(g.h), int(g.w), int(g.groups));
    const TestMask mask = make_mask(holes, g.n, g.c, g.h, g.w);
    const Windows windows = check_window_ratio(g, mask, what);
    for (const bool in_place : {false, true})
        for (const int64_t shift : {0, 1}) check_masked_copy(g, mask, in_place, shift, what);
    const Tensor bias = random_tensor(g.dtype, g.layout, 1, g.k, 1, 1);
    check_renormalise(g, windows, &bias.array, 0.2, 0, what);
    check_renormalise(g, windows, holes == Holes::shared ? nullptr : &bias.array, holes == Holes::one ? 0 : 1, 1, what);
}

}  // namespace

void test_masks() { test_mask_bytes(); }

// The large problem is there for the grids' second round alone, which neither the dtype nor the layout changes.
void test_passes() {
    for (Geometry g : problems) {
        g.p = output_size(g.h, g.r, g.stride_h, g.pad_h, g.dil_h);
        g.q = output_size(g.w, g.s, g.stride_w, g.pad_w, g.dil_w);
        const bool large = g.n * g.h * g.w > 200;
        for (DType dtype : float_types)
            for (Layout layout : layouts)
                for (Holes holes : all_holes) {
                    if (holes == Holes::two_blocks && (g.groups > 1 || g.c < 2)) continue;
                    if (large &&
                        (dtype != DType::f32 || layout != Layout::nchw || holes != all_holes[few_cases ? 0 : 1]))
                        continue;
                    if (few_cases && layout == Layout::nhwc) continue;
                    g.dtype = dtype;
                    g.layout = layout;
                    check_passes(g, holes);
                }
    }
}
