// Whole operators, forward and backward, through csrc/cuda/host/run.h against loops in double: every case of the shared
// list, in every dtype and layout, with a device of one multiprocessor (large tiles) and of many (small tiles, split
// reductions). Emulated on a CPU under sanitizers, or built by nvcc on a machine with a device, where compute-sanitizer
// watches it.
//
//   operators CASES [--only NAME[,NAME...]] [--dtypes bf16,f16,f32,tf32,f64] [--arch N] [--shared BYTES] [--quick]
#include "device_memory.h"
#include "reference.h"

#include <fstream>
#include <iostream>
#include <set>
#include <sstream>

using namespace pconv;
using namespace pconv::test;

namespace {

struct Options {
    std::string cases;
    std::set<std::string> only, dtypes{"bf16", "f16", "f32", "tf32", "f64"};
    int arch = 80;
    int64_t shared_bytes = 227 << 10;  // that a block may have
    bool quick = false;
};

struct Kind {
    const char* name;
    DType dtype;
    bool tf32;
    double rounding;  // of a stored number
    double sums;      // of sums, in proportion to their magnitude
};

// Sums: fp32 additions of at most a few thousand terms in blocks; tensor cores may round each step the other way.
constexpr Kind kinds[] = {
    {"bf16", DType::bf16, false, 1.0 / 256, 4e-6},
    {"f16", DType::f16, false, 1.0 / 2048, 4e-6},
    {"f32", DType::f32, false, 6e-8, 1e-6},
    {"tf32", DType::f32, true, 6e-8, 4e-6},
    {"f64", DType::f64, false, 1.2e-16, 1e-14}};

int failures = 0, comparisons = 0;

void compare(
    const std::string& what, const std::vector<double>& ours, const Result& truth, double rounding, double sums) {
    ++comparisons;
    if (ours.size() != truth.value.size()) {
        std::printf("MISMATCH %s: %zu values, expected %zu\n", what.c_str(), ours.size(), truth.value.size());
        ++failures;
        return;
    }
    for (size_t i = 0; i < ours.size(); ++i) {
        const double allowed = rounding * std::fabs(truth.value[i]) + sums * truth.magnitude[i] + 1e-30;
        if (std::fabs(ours[i] - truth.value[i]) <= allowed) continue;
        std::printf(
            "MISMATCH %s[%zu]: %.9g, expected %.9g +- %.2g\n", what.c_str(), i, ours[i], truth.value[i], allowed);
        ++failures;
        return;
    }
}

// NCHW (or KCRS) <-> the layout that is tested.
std::vector<double> permuted(
    const std::vector<double>& values, Layout layout, int64_t n, int64_t c, int64_t plane, bool back) {
    if (layout == Layout::nchw) return values;
    std::vector<double> result(values.size());
    for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < c; ++j)
            for (int64_t at = 0; at < plane; ++at) {
                const int64_t nchw = (i * c + j) * plane + at, nhwc = (i * plane + at) * c + j;
                (back ? result[nchw] : result[nhwc]) = values[back ? nhwc : nchw];
            }
    return result;
}

cuda::Strides weight_strides(const Geometry& g, Layout layout) {
    const int64_t c = g.c / g.groups;
    if (layout == Layout::nchw) return {{c * g.r * g.s, g.r * g.s, g.s, 1}};
    return {{c * g.r * g.s, 1, g.s * c, c}};
}

bool passed(const cuda::Status& status, const std::string& what) {
    if (status.ok()) return true;
    std::printf(
        "MISMATCH %s: launching %s failed: %s\n", what.c_str(), status.kernel, cudaGetErrorString(status.error));
    ++failures;
    return false;
}

void run_case(
    const CaseSpec& spec, const Problem& problem, const Truth& truth, const Kind& kind, Layout layout,
    const cuda::Device& device) {
    Geometry g = problem.g;
    g.dtype = kind.dtype;
    g.layout = layout;
    const DType ratio_type = kind.dtype == DType::f64 ? DType::f64 : DType::f32;
    const std::string what = spec.name + " " + kind.name + (layout == Layout::nhwc ? " nhwc" : " nchw") + " sm_" +
                             std::to_string(device.arch) + " x " + std::to_string(device.multiprocessors) +
                             (device.max_elements < (1 << 30) ? " in parts" : "");
    const int64_t cg = g.c / g.groups, ratios = problem.ratio_n * problem.ratio_groups * g.p * g.q;
    const Buffer x(kind.dtype, permuted(problem.x, layout, g.n, g.c, g.h * g.w, false));
    const Buffer weight(kind.dtype, permuted(problem.weight, layout, g.k, cg, g.r * g.s, false));
    const Buffer grad(kind.dtype, permuted(problem.grad, layout, g.n, g.k, g.p * g.q, false));
    const Buffer bias(kind.dtype, problem.bias), mask(DType::u8, problem.mask);
    const Buffer y(kind.dtype, g.n * g.k * g.p * g.q), ratio(ratio_type, ratios), new_mask(DType::u8, ratios);
    // A batch of nothing has no mask bytes, but it has a mask.
    static const uint8_t nothing = 0;
    const auto* mask_bytes = static_cast<const uint8_t*>(mask.data());
    if (problem.blocks > 0 && !mask_bytes) mask_bytes = &nothing;
    Mask view;
    if (problem.blocks > 0) view = mask_of(mask_bytes, problem.mask_n, g.h * g.w, problem.blocks, problem.first[1]);

    const auto describe = [&](cuda::Layer& call) {
        call.geometry = g;
        call.tf32 = kind.tf32;
        call.x = x.data(), call.mask = view;
        call.weight = weight.data(), call.weight_strides = weight_strides(g, layout);
        call.ratio = ratio.data(), call.ratio_n = problem.ratio_n, call.ratio_groups = problem.ratio_groups;
    };
    cuda::Forward forward{};
    describe(forward);
    forward.bias = bias.data();
    forward.new_mask = static_cast<uint8_t*>(new_mask.data());
    forward.y = y.data();
    // What the library's convolution is left to is refused.
    if (!cuda::kernels_of(forward, device).families) {
        ++comparisons;
        if (g.n > 0 && cuda::run_forward(forward, device, nullptr, nullptr).error != cudaErrorNotSupported)
            std::printf("MISMATCH %s: not refused\n", what.c_str()), ++failures;
        return;
    }
    {
        const Buffer workspace(DType::u8, cuda::forward_workspace(forward, device));
        if (!passed(cuda::run_forward(forward, device, workspace.data(), nullptr), what + " forward")) return;
    }
    compare(what + " y", permuted(y.values(), layout, g.n, g.k, g.p * g.q, true), truth.y, kind.rounding, kind.sums);
    // Again with an activation behind the epilogue, which leaves the errors' bounds as they are.
    forward.negative_slope = device.multiprocessors == 1 ? 0 : 0.2;
    const Buffer activated(kind.dtype, g.n * g.k * g.p * g.q);
    forward.y = activated.data();
    {
        const Buffer workspace(DType::u8, cuda::forward_workspace(forward, device));
        if (!passed(cuda::run_forward(forward, device, workspace.data(), nullptr), what + " activated")) return;
    }
    Result true_activated = truth.y;
    for (double& value : true_activated.value) value = value < 0 ? forward.negative_slope * value : value;
    compare(
        what + " activated", permuted(activated.values(), layout, g.n, g.k, g.p * g.q, true), true_activated,
        kind.rounding, kind.sums);

    Result true_ratios(ratios), true_new_mask(ratios);
    true_ratios.value = truth.ratio;
    for (int64_t i = 0; i < ratios; ++i) true_new_mask.value[i] = truth.ratio[i] > 0;
    compare(what + " ratio", ratio.values(), true_ratios, 1e-7, 0);
    compare(what + " new mask", new_mask.values(), true_new_mask, 0, 0);

    const Buffer dx(kind.dtype, g.n * g.c * g.h * g.w), dw(kind.dtype, g.k * cg * g.r * g.s), db(kind.dtype, g.k);
    cuda::Backward backward{};
    describe(backward);
    backward.grad = grad.data();
    backward.dx = dx.data();
    backward.dw = dw.data(), backward.dw_strides = weight_strides(g, layout);
    backward.db = db.data();
    const int64_t bytes = cuda::backward_workspace(backward, device);
    {
        const Buffer workspace(DType::u8, bytes);
        if (!passed(cuda::run_backward(backward, device, workspace.data(), nullptr), what + " backward")) return;
    }
    // ratio * grad is rounded once to the dtype (or to tf32), before it is summed.
    const double scaled = kind.tf32 ? 1.0 / 2048 : kind.rounding;
    compare(
        what + " dx", permuted(dx.values(), layout, g.n, g.c, g.h * g.w, true), truth.dx, kind.rounding,
        scaled + kind.sums);
    compare(
        what + " dw", permuted(dw.values(), layout, g.k, cg, g.r * g.s, true), truth.dw, kind.rounding,
        scaled + kind.sums);
    compare(what + " db", db.values(), truth.db, kind.rounding, kind.sums);

    // The same bits again, whatever the schedule.
    const Buffer dw_again(kind.dtype, g.k * cg * g.r * g.s), db_again(kind.dtype, g.k);
    backward.dw = dw_again.data(), backward.db = db_again.data(), backward.dx = nullptr;
    const Buffer workspace(DType::u8, cuda::backward_workspace(backward, device));
    if (!passed(cuda::run_backward(backward, device, workspace.data(), nullptr), what + " backward again")) return;
    if (dw.raw() != dw_again.raw() || db.raw() != db_again.raw()) {
        std::printf("MISMATCH %s: other bits in a second run\n", what.c_str());
        ++failures;
    }
}

std::vector<CaseSpec> read_cases(const Options& options) {
    std::ifstream file(options.cases);
    std::vector<CaseSpec> result;
    for (std::string line; std::getline(file, line);) {
        std::istringstream in(line);
        CaseSpec spec;
        Geometry& g = spec.g;
        int64_t blocks = 0, channels = 0;
        in >> spec.name >> g.n >> g.c >> g.h >> g.w >> g.k >> g.r >> g.s >> g.stride_h >> g.stride_w >> g.pad_h >>
            g.pad_w >> g.dil_h >> g.dil_w >> g.groups >> spec.mask >> spec.bias >> blocks;
        while (blocks-- > 0 && in >> channels)
            if (channels > 0) spec.mask_channels.push_back(channels);
        if (!in) std::printf("FAILED: cannot read the case: %s\n", line.c_str()), std::exit(1);
        g.p = output_size(g.h, g.r, g.stride_h, g.pad_h, g.dil_h);
        g.q = output_size(g.w, g.s, g.stride_w, g.pad_w, g.dil_w);
        if (options.only.empty() || options.only.count(spec.name)) result.push_back(spec);
    }
    return result;
}

std::set<std::string> list_of(const std::string& text) {
    std::set<std::string> result;
    std::istringstream in(text);
    for (std::string part; std::getline(in, part, ',');) result.insert(part);
    return result;
}

Options parse(int argc, char** argv) {
    Options options;
    for (int i = 1; i < argc; ++i) {
        const std::string word = argv[i];
        const bool has_value = i + 1 < argc;
        if (word == "--only" && has_value)
            options.only = list_of(argv[++i]);
        else if (word == "--dtypes" && has_value)
            options.dtypes = list_of(argv[++i]);
        else if (word == "--arch" && has_value)
            options.arch = std::atoi(argv[++i]);
        else if (word == "--shared" && has_value)
            options.shared_bytes = std::atoll(argv[++i]);
        else if (word == "--quick")
            options.quick = true;
        else
            options.cases = word;
    }
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    const Options options = parse(argc, argv);
    for (const CaseSpec& spec : read_cases(options)) {
        const Problem problem = make_problem(spec, 1);
        const Truth truth = truth_of(problem);
        for (const Kind& kind : kinds) {
            if (!options.dtypes.count(kind.name)) continue;
            for (const Layout layout : {Layout::nhwc, Layout::nchw}) {
                if (options.quick && layout == Layout::nchw) continue;
                cuda::Device device;
                device.arch = options.arch;
                device.shared_bytes = options.shared_bytes;
                device.wgmma = options.arch == 90;
                for (const int multiprocessors : multiprocessors_for(device)) {
                    // Doubles take the same kernels on every device.
                    if (multiprocessors > 1 && options.quick && kind.dtype == DType::f64) continue;
                    device.multiprocessors = multiprocessors;
                    if (device.wgmma) want_tiles(device);
                    run_case(spec, problem, truth, kind, layout, device);
                }
                const bool named = spec.name.find("parts") != std::string::npos;
                if ((options.quick && !named) || spec.g.n < 2) continue;
                device.max_elements = 40000;  // as if the batch did not fit into 32-bit offsets
                run_case(spec, problem, truth, kind, layout, device);
                device.multiprocessors = 1;
                run_case(spec, problem, truth, kind, layout, device);
            }
        }
    }
    std::printf("%d comparisons, %d failures\n", comparisons, failures);
    if (comparisons == 0) std::printf("FAILED: no case ran\n");
    return failures > 0 || comparisons == 0;
}
