// The Python module pconv_cuda._C: what was built. Importing it registers the operators (ops_cpu.cpp).
// No torch header here: pybind11 and the stable ABI have nothing to do with each other.
#include "plan_info.h"

#include "../cpu/instruction_set.h"
#include "../launchers.h"

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
    return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#elif defined(__GNUC__)
    return "g++ " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__);
#else
    return "unknown";
#endif
}

// Which of the vectorised copies of the CPU loops this machine runs.
std::string instruction_set() {
#if defined(PCONV_ISA_AVX512) || defined(PCONV_ISA_AVX2)
    const std::string only = " only";
#else
    const std::string only;
#endif
    switch (pconv::cpu::instruction_set()) {
        case pconv::cpu::InstructionSet::kAvx512: return "AVX-512" + only;
        case pconv::cpu::InstructionSet::kAvx2: return "AVX2" + only;
        case pconv::cpu::InstructionSet::kBaseline: break;
    }
    return "baseline";
}

py::dict build_info() {
    py::dict info;
    info["built_with_torch"] = PCONV_BUILT_WITH_TORCH;
    info["stable_abi"] = "2.11";
    info["compiler"] = compiler();
    info["cpu"] = instruction_set();
    info["conv3x3"] = pconv::cpu::has_winograd();
    return info;
}

pconv::DType dtype_from(const std::string& name) {
    const std::pair<const char*, pconv::DType> names[] = {
        {"float64", pconv::DType::f64},
        {"float32", pconv::DType::f32},
        {"bfloat16", pconv::DType::bf16},
        {"float16", pconv::DType::f16}};
    for (const auto& [known, dtype] : names)
        if (name == known) return dtype;
    throw std::invalid_argument("dtype: expected float64, float32, bfloat16 or float16, got " + name);
}

// (pass, kernel, notes) of the three passes of a layer with a one-channel mask and "same" padding.
py::list plan(
    int64_t n, int64_t c, int64_t h, int64_t w, int64_t k, int64_t r, int64_t s, int64_t stride,
    const std::string& dtype, bool channels_last, bool tf32, int arch, int multiprocessors, int64_t shared_bytes,
    bool wgmma) {
    using namespace pconv::cuda;
    pconv::Geometry g{};
    g.n = n, g.c = c, g.h = h, g.w = w, g.k = k, g.r = r, g.s = s;
    g.stride_h = g.stride_w = stride;
    g.pad_h = r / 2, g.pad_w = s / 2;
    g.dil_h = g.dil_w = g.groups = 1;
    g.p = pconv::output_size(h, r, stride, g.pad_h, 1);
    g.q = pconv::output_size(w, s, stride, g.pad_w, 1);
    g.layout = channels_last ? pconv::Layout::nhwc : pconv::Layout::nchw;
    g.dtype = dtype_from(dtype);
    const int64_t first[] = {0, c};
    Device device;
    device.arch = arch, device.multiprocessors = multiprocessors, device.wgmma = wgmma;
    device.shared_bytes = shared_bytes;
    py::list rows;
    for (const Pass pass : {Pass::fprop, Pass::dgrad, Pass::wgrad}) {
        const Plan chosen = make_plan(pass, g, {true, 1, first}, tf32, device, true, channels_last);
        const char* const names[] = {"forward", "input gradient", "weight gradient"};
        rows.append(py::make_tuple(names[static_cast<int>(pass)], kernel_name(pass, chosen), notes_of(pass, chosen)));
    }
    return rows;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Operators of pconv_cuda for the CPU, registered on import.";
    m.def("build_info", &build_info, "What was built: torch, ABI, compiler, and the instruction set in use.");
    m.def(
        "plan", &plan, py::arg("n"), py::arg("c"), py::arg("h"), py::arg("w"), py::arg("k"), py::arg("r"), py::arg("s"),
        py::arg("stride"), py::arg("dtype"), py::kw_only(), py::arg("channels_last") = true, py::arg("tf32") = true,
        py::arg("arch") = 90, py::arg("multiprocessors") = 132, py::arg("shared_bytes") = 227 << 10,
        py::arg("wgmma") = false, "Which CUDA kernels a layer would run on: [(pass, kernel, notes)].");
}
