// The Python module pconv_cuda._C: what was built. Importing it registers the operators (ops_cpu.cpp).
// No torch header here: pybind11 and the stable ABI have nothing to do with each other.
#include <pybind11/pybind11.h>

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
#if defined(PCONV_ISA_AVX512)
    return "AVX-512 only";
#elif defined(PCONV_ISA_AVX2)
    return "AVX2 only";
#elif !defined(PCONV_ISA_BASELINE) && defined(__x86_64__) && defined(__GNUC__) && defined(__linux__)
    if (__builtin_cpu_supports("avx512f")) return "AVX-512";
    if (__builtin_cpu_supports("avx2")) return "AVX2";
#endif
    return "baseline";
}

py::dict build_info() {
    py::dict info;
    info["built_with_torch"] = PCONV_BUILT_WITH_TORCH;
    info["stable_abi"] = "2.11";
    info["compiler"] = compiler();
    info["cpu"] = instruction_set();
    return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Operators of pconv_cuda for the CPU, registered on import.";
    m.def("build_info", &build_info, "What was built: torch, ABI, compiler, and the instruction set in use.");
}
