// The kernels of the network's two ends (first_layer.cu, last_layer.cu) beside numbers, which operators.cpp compares: a
// valid infinity reaches the windows that hold it and no other. Those kernels multiply padding, and 0 * Inf is NaN.
//
//   test_edge_layers
#include "device_memory.h"
#include "reference.h"

using namespace pconv;
using namespace pconv::test;

namespace {

struct Shape {
    const char* name;
    cuda::Special special;
    int64_t c, h, w, k, r, s, stride, pad;
};

constexpr Shape shapes[] = {
    {"7x7 stride 2", cuda::Special::first, 3, 12, 21, 8, 7, 7, 2, 3},
    {"3x3", cuda::Special::first, 3, 7, 19, 5, 3, 3, 1, 1},
    {"2x5", cuda::Special::first, 1, 6, 9, 3, 2, 5, 1, 2},
    {"3x1", cuda::Special::first, 4, 6, 9, 3, 3, 1, 1, 1},
    {"last 3x3", cuda::Special::last, 24, 7, 18, 3, 3, 3, 1, 1},
    {"last 5x5", cuda::Special::last, 8, 6, 7, 2, 5, 5, 1, 2}};

int failures = 0, comparisons = 0;

bool covers(const Geometry& g, int64_t p, int64_t q, int64_t y, int64_t x) {
    const int64_t dy = y - (p * g.stride_h - g.pad_h), dx = x - (q * g.stride_w - g.pad_w);
    return dy >= 0 && dy < g.r && dx >= 0 && dx < g.s;
}

void run_shape(const Shape& shape, DType dtype, Layout layout) {
    CaseSpec spec;
    spec.mask = "full";
    spec.bias = true;
    Geometry& g = spec.g;
    g.n = 1, g.c = shape.c, g.h = shape.h, g.w = shape.w, g.k = shape.k, g.r = shape.r, g.s = shape.s;
    g.stride_h = g.stride_w = shape.stride, g.pad_h = g.pad_w = shape.pad, g.dil_h = g.dil_w = g.groups = 1;
    g.p = output_size(g.h, g.r, g.stride_h, g.pad_h, 1), g.q = output_size(g.w, g.s, g.stride_w, g.pad_w, 1);
    g.dtype = dtype, g.layout = layout;
    Problem problem = make_problem(spec, 3);
    const Buffer weight(dtype, problem.weight), bias(dtype, problem.bias), mask(DType::u8, problem.mask);
    cuda::Device device;
    device.multiprocessors = 1;
    const cuda::Plan plan = cuda::make_plan(cuda::Pass::fprop, g, Mask{}, dtype == DType::f32, device, true, true);
    if (plan.special != shape.special) std::printf("MISMATCH %s: another kernel serves it\n", shape.name), ++failures;
    for (int64_t at = 0; at < g.h * g.w; at += 3) {
        // All values are 1: only where the infinity lies matters, not in which layout.
        std::vector<double> x(size_t(g.c * g.h * g.w), 1.0);
        const int64_t channel = at % g.c;
        x[layout == Layout::nchw ? channel * g.h * g.w + at : at * g.c + channel] =
            std::numeric_limits<double>::infinity();
        const Buffer source(dtype, x), y(dtype, g.k * g.p * g.q), ratio(DType::f32, g.p * g.q),
            new_mask(DType::u8, g.p * g.q);
        cuda::Forward call{};
        call.geometry = g;
        call.tf32 = true;
        call.x = source.data(), call.mask = mask_of(static_cast<const uint8_t*>(mask.data()), 1, g.h * g.w);
        call.weight = weight.data(), call.weight_strides = {{g.c * g.r * g.s, g.r * g.s, g.s, 1}};
        call.bias = bias.data();
        call.ratio = ratio.data(), call.ratio_n = call.ratio_groups = 1;
        call.new_mask = static_cast<uint8_t*>(new_mask.data());
        call.y = y.data();
        const Buffer workspace(DType::u8, cuda::forward_workspace(call, device));
        if (!cuda::run_forward(call, device, workspace.data(), nullptr).ok())
            std::printf("MISMATCH launch\n"), ++failures;
        const std::vector<double> values = y.values();
        for (int64_t i = 0; i < g.k * g.p * g.q; ++i) {
            const int64_t pixel = layout == Layout::nchw ? i % (g.p * g.q) : i / g.k;
            ++comparisons;
            if (std::isfinite(values[i]) != covers(g, pixel / g.q, pixel % g.q, at / g.w, at % g.w)) continue;
            std::printf(
                "MISMATCH %s: an infinity at pixel %d, output pixel %d is %g\n", shape.name, int(at), int(pixel),
                values[i]);
            ++failures;
            return;
        }
    }
}

}  // namespace

int main() {
    for (const Shape& shape : shapes)
        for (const DType dtype : {DType::bf16, DType::f16, DType::f32})
            for (const Layout layout : {Layout::nchw, Layout::nhwc}) run_shape(shape, dtype, layout);
    std::printf("%d comparisons, %d failures\n", comparisons, failures);
    return failures > 0 || comparisons == 0;
}
