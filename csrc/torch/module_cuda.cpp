// The Python module pconv_cuda._C_cuda. Importing it registers the CUDA operators (ops_cuda.cpp); no device is touched.
#include <cuda_runtime_api.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <optional>
#include <string>

namespace pconv::cuda {
// As in ops_cuda.h, which includes torch: see module.cpp.
void set_tf32_reader(int (*reader)());
void set_wgmma(int choice);
void set_family_checker(int (*checker)(unsigned family, int dtype, int device));
void set_benchmark_reader(int (*reader)());
std::map<std::string, int> measured_choices();
void set_choices(const std::map<std::string, int>& known);
void force_path(int choice);
unsigned last_families();
}  // namespace pconv::cuda

namespace py = pybind11;

namespace {

py::object *reader = nullptr, *checker = nullptr,
           *benchmark = nullptr;  // never destroyed: operators may run until the process ends

// Called by operators, from any thread, with or without the interpreter's lock.
int ask_reader() {
    if (!Py_IsInitialized()) return 0;
    py::gil_scoped_acquire lock;
    return (*reader)().cast<bool>() ? 1 : 0;
}

void set_tf32_reader(py::object callable) {
    delete reader;
    reader = new py::object(std::move(callable));
    pconv::cuda::set_tf32_reader(&ask_reader);
}

// Where the checker itself fails the kernels count as right.
int ask_checker(unsigned family, int dtype, int device) {
    if (!Py_IsInitialized()) return 1;
    py::gil_scoped_acquire lock;
    try {
        return (*checker)(family, dtype, device).cast<bool>() ? 1 : 0;
    } catch (py::error_already_set& error) {
        error.discard_as_unraisable("pconv_cuda.selftest");
        return 1;
    }
}

void set_family_checker(py::object callable) {
    delete checker;
    checker = callable.is_none() ? nullptr : new py::object(std::move(callable));
    pconv::cuda::set_family_checker(checker ? &ask_checker : nullptr);
}

int ask_benchmark() {
    if (!Py_IsInitialized()) return 0;
    py::gil_scoped_acquire lock;
    return (*benchmark)().cast<bool>() ? 1 : 0;
}

void set_benchmark_reader(py::object callable) {
    delete benchmark;
    benchmark = callable.is_none() ? nullptr : new py::object(std::move(callable));
    pconv::cuda::set_benchmark_reader(benchmark ? &ask_benchmark : nullptr);
}

}  // namespace

PYBIND11_MODULE(_C_cuda, m) {
    m.doc() = "CUDA kernels of pconv_cuda's operators, registered on import.";
    m.attr("architectures") = PCONV_ARCHITECTURES;
    m.attr("cuda") = std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
    m.def("set_tf32_reader", &set_tf32_reader, "A callable that says whether torch allows tf32 in convolutions.");
    m.def(
        "set_wgmma", [](std::optional<bool> choice) { pconv::cuda::set_wgmma(choice ? int(*choice) : -1); },
        "Whether devices of sm_90 take their wgmma kernels from now on; None: as PCONV_WGMMA says.");
    m.def(
        "set_family_checker", &set_family_checker,
        "A callable (family, dtype, device) -> whether these kernels are right, asked before their first use, or "
        "None.");
    m.def(
        "set_benchmark_reader", &set_benchmark_reader,
        "A callable that says whether new geometries are timed now, or None.");
    m.def("measured_choices", &pconv::cuda::measured_choices, "What was timed: key -> choice, as force_path takes it.");
    m.def("set_choices", &pconv::cuda::set_choices, "Choices of an earlier process, in place of those that there are.");
    m.def(
        "force_path", &pconv::cuda::force_path,
        "This thread's calls: -1 as planned, 0 the library's convolution, 1 fused without wgmma, 2 with it; more "
        "bits want a tile (choice.h).");
    m.def("last_families", &pconv::cuda::last_families, "The families of kernels that this thread's last call ran on.");
}
