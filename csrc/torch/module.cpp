// The Python module pconv_cuda._C: what was built. Importing it registers the operators (ops_cpu.cpp).
// No torch header here: pybind11 and the stable ABI have nothing to do with each other.
#include "../cpu/instruction_set.h"
#include "../cpu/kernels.h"

#include "pconv_build.h"  // made by setup.py

#include <pybind11/pybind11.h>

#include <string>

namespace py = pybind11;

void define_plan(py::module_& m);  // module_plan.cpp

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
    info["no_cuda"] = PCONV_NO_CUDA_REASON;
    info["conv3x3"] = pconv::cpu::has_winograd();
    return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Operators of pconv_cuda for the CPU, registered on import.";
    m.def(
        "build_info", &build_info,
        "What was built: torch, ABI, compiler, the instruction set in use, and why CUDA kernels were left out.");
    define_plan(m);
}
