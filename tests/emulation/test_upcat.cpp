// The decoder stage's forward through csrc/cuda/host/run.h against loops in double, in every dtype and layout: in
// phases and direct, with phases given and made on the way, on devices of one multiprocessor (large tiles) and of many
// (small tiles, split reductions), and in parts. The phases themselves, and the joined input, to the bit. And where a
// valid infinity gets to.
//
//   test_upcat [--only NAME[,NAME...]] [--dtypes bf16,f16,f32,tf32,f64] [--shared BYTES] [--arch N] [--quick]
#include "upcat_support.h"

#include "cuda/upcat/upcat.h"

using namespace pconv;
using namespace pconv::test;

namespace {

bool run(const cuda::Forward& call, const cuda::Device& device, const std::string& what) {
    const Buffer workspace(DType::u8, cuda::forward_workspace(call, device));
    const cuda::Status status = cuda::run_forward(call, device, workspace.data(), nullptr);
    if (!status.ok()) {
        report(what, status.kernel);
        std::printf("    %s\n", cudaGetErrorString(status.error));
    }
    return status.ok();
}

// [4 K][2][2][channels], each sum made in double and rounded once; channels past low's are zero.
void check_phases(
    const UpcatProblem& p, const Tensors& t, const Buffer& phases, int64_t padded, const std::string& what) {
    const std::vector<double> ours = phases.values();
    ++comparisons;
    const auto meets = [](int64_t parity, int64_t place, int64_t tap) {
        // Output row 2 p + parity looks at row 2 p + parity + tap - 1, which is small row p - 1 + parity + place.
        const int64_t row = parity + tap - 1, small = row < 0 ? -1 : row / 2;
        return small == parity + place - 1;
    };
    for (int64_t i = 0; i < int64_t(ours.size()); ++i) {
        const int64_t c = i % padded, place = i / padded % 4, k = i / padded / 4 % t.g.k,
                      phase = i / padded / 4 / t.g.k;
        double sum = 0;
        for (int64_t tap = 0; tap < 9; ++tap)
            if (c < p.low_channels && meets(phase / 2, place / 2, tap / 3) && meets(phase % 2, place % 2, tap % 3))
                sum += p.weight[(k * t.g.c + c) * 9 + tap];
        if (ours[i] == rounded_to(t.g.dtype, sum)) continue;
        std::printf("MISMATCH %s phases[%d]: %.9g, expected %.9g\n", what.c_str(), int(i), ours[i], sum);
        ++failures;
        return;
    }
}

// The joined input and its masks, and a gradient of it taken apart. All values are exact.
void check_joined(UpcatProblem problem, DType dtype, Layout layout, const std::string& what) {
    for (std::vector<double>* values : {&problem.low, &problem.skip})
        for (double& value : *values) value = std::isnan(value) ? 0.5 : value;  // holes are copied with the rest
    const Tensors t(problem, dtype, layout);
    const Geometry& g = t.g;
    const int64_t low = problem.low_channels, pixels = g.h * g.w;
    const Buffer joined(g.dtype, g.n * g.c * pixels), masks(DType::u8, problem.ratio_n * 2 * pixels);
    const Buffer dlow(g.dtype, g.n * low * pixels / 4), dskip(g.dtype, g.n * (g.c - low) * pixels);
    const cuda::Forward call = t.call(problem, false);
    cuda::Status status = cuda::upcat_join(call, joined.data(), masks.data(), nullptr);
    if (status.ok()) status = cuda::upcat_part(call, joined.data(), dlow.data(), dskip.data(), nullptr);
    if (!status.ok()) return report(what, status.kernel);
    Result whole(g.n * g.c * pixels), valid(problem.ratio_n * 2 * pixels), of_low(g.n * low * pixels / 4),
        of_skip(g.n * (g.c - low) * pixels);
    for (int64_t i = 0; i < int64_t(whole.value.size()); ++i) {
        const int64_t n = i / (g.c * pixels), c = i / pixels % g.c, y = i / g.w % g.h, x = i % g.w;
        const double value = whole.value[i] = problem.value(n, c, y, x);
        if (c < low)
            of_low.value[((n * low + c) * (g.h / 2) + y / 2) * (g.w / 2) + x / 2] += value;
        else
            of_skip.value[(n * (g.c - low) + c - low) * pixels + i % pixels] = value;
    }
    for (int64_t i = 0; i < int64_t(valid.value.size()); ++i)
        valid.value[i] = problem.valid(i / (2 * pixels), i / pixels % 2 ? low : 0, i / g.w % g.h, i % g.w);
    const auto check = [&](const char* name, const std::vector<double>& ours, const Result& truth, double rounding) {
        compare(what + name, ours, truth.value, truth.magnitude, rounding, 0);
    };
    const double rounding = g.dtype == DType::bf16 ? 1.0 / 256 : g.dtype == DType::f16 ? 1.0 / 2048 : 0;
    check(" joined", permuted(joined.values(), g.layout, g.n, g.c, pixels, true), whole, 0);
    check(" joined masks", masks.values(), valid, 0);
    check(" dlow", permuted(dlow.values(), g.layout, g.n, low, pixels / 4, true), of_low, rounding);
    check(" dskip", permuted(dskip.values(), g.layout, g.n, g.c - low, pixels, true), of_skip, 0);
}

cuda::Plan plan_of(const Tensors& t, const UpcatProblem& problem, const Kind& kind, const cuda::Device& device) {
    return cuda::make_upcat_plan(t.g, problem.low_channels, false, kind.tf32, device, true, true, true);
}

void run_case(
    const UpcatCase& spec, const UpcatProblem& problem, const UpcatTruth& truth, const Kind& kind, const Tensors& t,
    const cuda::Device& device, const void* phases, double negative_slope) {
    const Geometry& g = t.g;
    const cuda::Plan plan = plan_of(t, problem, kind, device);
    const std::string what =
        std::string(spec.name) + " " + kind.name + (g.layout == Layout::nhwc ? " nhwc" : " nchw") + " sm_" +
        std::to_string(device.arch) + " x " + std::to_string(device.multiprocessors) +
        (plan.fast ? plan.direct ? " direct" : "" : " materialised") + (phases ? " phases given" : "") +
        (negative_slope == 1 ? "" : " activated") +
        (device.max_elements < (1 << 30) ? " in parts of " + std::to_string(device.max_elements) : "");
    const DType ratio_type = kind.dtype == DType::f64 ? DType::f64 : DType::f32;
    const Buffer y(kind.dtype, g.n * g.k * g.h * g.w), ratio(ratio_type, problem.ratio_n * g.h * g.w),
        new_mask(DType::u8, problem.ratio_n * g.h * g.w);
    cuda::Forward call = t.call(problem, kind.tf32);
    call.phases = phases;
    call.y = y.data(), call.ratio = ratio.data(), call.new_mask = static_cast<uint8_t*>(new_mask.data());
    call.negative_slope = negative_slope;
    if (!cuda::kernels_of(call, device).families) {
        ++comparisons;
        if (g.n > 0 && cuda::run_forward(call, device, nullptr, nullptr).error != cudaErrorNotSupported)
            report(what, "not refused");
        return;
    }
    if (!run(call, device, what)) return;
    std::vector<double> expected = truth.y.value, true_new_mask = truth.ratio;
    for (double& value : expected) value = value < 0 ? negative_slope * value : value;
    for (double& value : true_new_mask) value = value > 0;
    // The phases' weights are rounded once more.
    const double weights = !plan.fast || plan.direct ? 0 : kind.tf32 ? 1.0 / 2048 : kind.rounding;
    compare(
        what + " y", permuted(y.values(), g.layout, g.n, g.k, g.h * g.w, true), expected, truth.y.magnitude,
        kind.rounding, kind.sums + weights);
    compare(what + " ratio", ratio.values(), truth.ratio, {}, 1e-7, 0);
    compare(what + " new mask", new_mask.values(), true_new_mask, {}, 0, 0);
}

void run_devices(
    const UpcatCase& spec, const UpcatProblem& problem, const UpcatTruth& truth, const Kind& kind, Layout layout,
    const Options& options) {
    const Tensors t(problem, kind.dtype, layout);
    const int64_t low = problem.low_channels, chunk = 16 / bytes_of(kind.dtype),
                  padded = (low + chunk - 1) / chunk * chunk;
    const Buffer phases(kind.dtype, 16 * t.g.k * low), wide(kind.dtype, 16 * t.g.k * padded);
    for (const auto& [buffer, channels] : {std::make_pair(&phases, low), std::make_pair(&wide, padded)}) {
        const cuda::Status status = cuda::upcat_phases(
            kind.dtype, t.g.k, low, channels, t.weight.data(), t.weight_strides(), buffer->data(), nullptr);
        if (!status.ok()) return report(spec.name, status.kernel);
        check_phases(problem, t, *buffer, channels, spec.name);
    }
    check_joined(problem, kind.dtype, layout, std::string(spec.name) + " " + kind.name);
    cuda::Device device;
    device.arch = options.arch;
    device.wgmma = options.arch == 90;
    device.shared_bytes = options.shared_bytes;
    for (const int multiprocessors : multiprocessors_for(device))
        for (const int64_t operations : {0, 1 << 20}) {  // a byte: phases always pay, or never
            device.multiprocessors = multiprocessors;
            if (device.wgmma) want_tiles(device);
            device.flops_per_byte = operations;
            run_case(spec, problem, truth, kind, t, device, nullptr, multiprocessors == 1 ? 1 : 0.2);
            if (kind.dtype == DType::f64) return;  // materialised: nothing differs
            if (operations == 0) run_case(spec, problem, truth, kind, t, device, phases.data(), 0);
            if (options.quick || spec.n < 2) continue;
            // As if the batch did not fit into 32-bit offsets; and an image.
            for (device.max_elements = 1000; !plan_of(t, problem, kind, device).fast; device.max_elements *= 2)
                continue;
            run_case(spec, problem, truth, kind, t, device, nullptr, 1);
            device.max_elements = 1000;
            run_case(spec, problem, truth, kind, t, device, nullptr, 1);
            device.max_elements = cuda::Device{}.max_elements;
        }
}

// An infinity in one valid pixel makes the windows that hold it infinite or NaN, and no other.
void check_infinity(DType dtype, Layout layout, bool direct, bool last) {
    const int64_t skip_channels = last ? 3 : 9;
    const UpcatCase spec{"infinity", 1, 10, skip_channels, 3, 4, last ? 3 : 5, Holes::full, Holes::full, true};
    const UpcatProblem problem = make_upcat_problem(spec, dtype, 5);
    const Geometry& g = problem.g;
    cuda::Device device;
    device.multiprocessors = 1;
    device.flops_per_byte = direct ? 1 << 20 : 0;
    for (int64_t at = 0; at < spec.h * spec.w + g.h * g.w; ++at) {
        const bool in_low = at < spec.h * spec.w;
        const int64_t pixel = in_low ? at : at - spec.h * spec.w, width = in_low ? spec.w : g.w;
        UpcatProblem own = problem;
        for (double& weight : own.weight) weight = 1;
        (in_low ? own.low : own.skip)[at % skip_channels * (in_low ? spec.h * spec.w : g.h * g.w) + pixel] =
            std::numeric_limits<double>::infinity();
        const Tensors t(own, dtype, layout);
        const Buffer y(dtype, g.k * g.h * g.w), ratio(DType::f32, g.h * g.w), new_mask(DType::u8, g.h * g.w);
        cuda::Forward call = t.call(own, true);
        call.y = y.data(), call.ratio = ratio.data(), call.new_mask = static_cast<uint8_t*>(new_mask.data());
        if (!run(call, device, spec.name)) return;
        const std::vector<double> values = permuted(y.values(), layout, 1, g.k, g.h * g.w, true);
        ++comparisons;
        for (int64_t i = 0; i < g.k * g.h * g.w; ++i) {
            const int64_t p = i / g.w % g.h, q = i % g.w, scale = in_low ? 2 : 1;
            const int64_t y0 = pixel / width * scale, x0 = pixel % width * scale;
            const bool holds = p >= y0 - 1 && p <= y0 + scale && q >= x0 - 1 && q <= x0 + scale;
            if (std::isfinite(values[i]) != holds) continue;
            std::printf("MISMATCH infinity at %d: output %d is %g\n", int(at), int(i), values[i]);
            ++failures;
            return;
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    for (const UpcatCase& spec : upcat_cases) {
        if (!options.only.empty() && !options.only.count(spec.name)) continue;
        for (const Kind& kind : kinds) {
            if (!options.dtypes.count(kind.name)) continue;
            // tf32 is compared with fp32's truth: weights and their sums have few bits there.
            const UpcatProblem problem = make_upcat_problem(spec, kind.tf32 ? DType::bf16 : kind.dtype, 1);
            const UpcatTruth truth = upcat_truth(problem);
            for (const Layout layout : {Layout::nhwc, Layout::nchw})
                if (!options.quick || layout == Layout::nhwc) run_devices(spec, problem, truth, kind, layout, options);
        }
    }
    if (options.only.empty() || options.only.count("infinity"))
        for (const Kind& kind : kinds)
            for (const Layout layout : {Layout::nhwc, Layout::nchw})
                if (options.dtypes.count(kind.name) && kind.dtype != DType::f64 &&
                    !(options.quick && layout == Layout::nchw))
                    for (const bool last : {false, true})
                        for (const bool direct : {false, true}) check_infinity(kind.dtype, layout, direct, last);
    std::printf("%d comparisons, %d failures\n", comparisons, failures);
    if (comparisons == 0) std::printf("FAILED: no case ran\n");
    return failures > 0 || comparisons == 0;
}
