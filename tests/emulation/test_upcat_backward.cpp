// The decoder stage's backward through csrc/cuda/host/run.h against loops in double, in every dtype and layout:
// by low's own convolution and materialised, on devices of one multiprocessor (large tiles) and of many (split
// reductions), in parts, and for every gradient alone. The weight's and the bias's gradients twice: the same bits.
//
//   test_upcat_backward [--only NAME[,NAME...]] [--dtypes bf16,f16,f32,tf32,f64] [--shared BYTES] [--arch N] [--quick]
#include "upcat_support.h"

using namespace pconv;
using namespace pconv::test;

namespace {

struct Outputs {
    Buffer low, skip, weight, bias;
    explicit Outputs(const Geometry& g, int64_t low_channels)
        : low(g.dtype, g.n * low_channels * (g.h / 2) * (g.w / 2)),
          skip(g.dtype, g.n * (g.c - low_channels) * g.h * g.w),
          weight(g.dtype, g.k * g.c * 9),
          bias(g.dtype, g.k) {}
};

bool run(const cuda::Backward& call, const cuda::Device& device, const std::string& what) {
    const Buffer workspace(DType::u8, cuda::backward_workspace(call, device));
    const cuda::Status status = cuda::run_backward(call, device, workspace.data(), nullptr);
    if (!status.ok()) report(what, status.kernel);
    return status.ok();
}

struct Run {
    const UpcatCase& spec;
    const UpcatProblem& problem;
    const UpcatGradients& truth;
    const Kind& kind;
    const Tensors& tensors;
    const Buffer &grad, &ratio;

    // wanted: a bit each for low, skip, weight and bias.
    void operator()(const cuda::Device& device, unsigned wanted) const {
        const Geometry& g = tensors.g;
        const std::string what =
            std::string(spec.name) + " " + kind.name + (g.layout == Layout::nhwc ? " nhwc sm_" : " nchw sm_") +
            std::to_string(device.arch) + " x " + std::to_string(device.multiprocessors) +
            (device.flops_per_byte > 0 ? " materialised" : "") + (device.max_elements < (1 << 30) ? " in parts" : "");
        const int64_t low = problem.low_channels, skip = g.c - low;
        cuda::Backward call{};
        tensors.fill(call, problem, kind.tf32);
        call.grad = grad.data();
        call.ratio = const_cast<void*>(static_cast<const void*>(ratio.data()));
        call.dw_strides = tensors.weight_strides();
        const auto tell = [&](const Outputs& to) {
            call.dx = wanted & 1 ? to.low.data() : nullptr;
            call.dskip = wanted & 2 ? to.skip.data() : nullptr;
            call.dw = wanted & 4 ? to.weight.data() : nullptr;
            call.db = wanted & 8 ? to.bias.data() : nullptr;
        };
        const Outputs ours(g, low), again(g, low);
        tell(ours);
        if (!cuda::kernels_of(call, device).families) {
            ++comparisons;
            if (cuda::run_backward(call, device, nullptr, nullptr).error != cudaErrorNotSupported)
                report(what, "not refused");
            return;
        }
        if (!run(call, device, what)) return;
        // The scaled gradient and low's filters are rounded once each before they are summed; the materialised way
        // rounds the four gradients over a small pixel before it adds them.
        const double once = kind.tf32 ? 1.0 / 2048 : kind.rounding, sums = 2 * once + kind.sums;
        const auto check = [&](unsigned bit, const char* name, const std::vector<double>& found,
                               const Result& expected) {
            if (wanted & bit) compare(what + name, found, expected.value, expected.magnitude, kind.rounding, sums);
        };
        check(1, " dlow", permuted(ours.low.values(), g.layout, g.n, low, g.h / 2 * (g.w / 2), true), truth.low);
        check(2, " dskip", permuted(ours.skip.values(), g.layout, g.n, skip, g.h * g.w, true), truth.skip);
        check(4, " dw", permuted(ours.weight.values(), g.layout, g.k, g.c, 9, true), truth.weight);
        check(8, " db", ours.bias.values(), truth.bias);
        tell(again);
        if (!run(call, device, what)) return;
        if ((wanted & 4 && ours.weight.raw() != again.weight.raw()) ||
            (wanted & 8 && ours.bias.raw() != again.bias.raw()))
            report(what, "other bits in a second run");
    }
};

bool fits(const Run& run, const cuda::Device& device) {
    // As run_stage_backward.cpp plans low's convolution.
    Geometry g = run.tensors.g;
    const int64_t chunk = 16 / bytes_of(g.dtype);
    g.k = run.problem.low_channels, g.c = (run.tensors.g.k + chunk - 1) / chunk * chunk;
    g.r = g.s = 4, g.stride_h = g.stride_w = 2, g.p = g.h / 2, g.q = g.w / 2, g.layout = Layout::nhwc;
    return cuda::make_plan(cuda::Pass::fprop, g, {}, run.kind.tf32, device, true, true).fast;
}

void run_devices(const Run& run, const Options& options) {
    const bool generic = run.kind.dtype == DType::f64;
    for (const int multiprocessors : {1, 40})
        for (const int64_t operations : {0, 1 << 20}) {  // a byte: low's own convolution always pays, or never
            if (generic && operations == 0) continue;
            cuda::Device device;
            device.arch = options.arch, device.wgmma = options.arch == 90;
            device.shared_bytes = options.shared_bytes;
            device.multiprocessors = multiprocessors;
            if (device.wgmma) want_tiles(device);
            device.flops_per_byte = operations;
            run(device, 15);
            if (options.quick) continue;
            for (unsigned wanted = 1; wanted < 15 && multiprocessors > 1; ++wanted) run(device, wanted);
            if (generic || operations > 0 || run.spec.n < 2) continue;
            // As if the batch did not fit into 32-bit offsets.
            for (device.max_elements = 1000; !fits(run, device); device.max_elements *= 2) continue;
            run(device, 15);
        }
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    for (const UpcatCase& spec : upcat_cases) {
        if (!options.only.empty() && !options.only.count(spec.name)) continue;
        for (const Kind& kind : kinds) {
            if (!options.dtypes.count(kind.name)) continue;
            const UpcatProblem problem = make_upcat_problem(spec, kind.tf32 ? DType::bf16 : kind.dtype, 1);
            const Geometry& g = problem.g;
            const std::vector<double> ratios = upcat_truth(problem).ratio;
            // What comes back for a dead window must not matter.
            Random random{77};
            std::vector<double> grads(size_t(g.n * g.k * g.h * g.w));
            for (size_t i = 0; i < grads.size(); ++i) {
                const int64_t pixel = int64_t(i) % (g.h * g.w), n = int64_t(i) / (g.h * g.w * g.k);
                const bool new_mask = ratios[(problem.ratio_n > 1 ? n : 0) * g.h * g.w + pixel] > 0;
                grads[i] = new_mask ? random.number() : std::numeric_limits<double>::quiet_NaN();
            }
            const UpcatGradients truth = upcat_gradients(problem, ratios, grads);
            for (const Layout layout : {Layout::nhwc, Layout::nchw}) {
                if (options.quick && layout == Layout::nchw) continue;
                const Tensors tensors(problem, kind.dtype, layout);
                const Buffer grad(kind.dtype, permuted(grads, layout, g.n, g.k, g.h * g.w, false));
                const Buffer ratio(kind.dtype == DType::f64 ? DType::f64 : DType::f32, ratios);
                run_devices({spec, problem, truth, kind, tensors, grad, ratio}, options);
            }
        }
    }
    std::printf("%d comparisons, %d failures\n", comparisons, failures);
    if (comparisons == 0) std::printf("FAILED: no case ran\n");
    return failures > 0 || comparisons == 0;
}
