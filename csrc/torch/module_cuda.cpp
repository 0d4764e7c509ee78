// The Python module pconv_cuda._C_cuda. Importing it registers the CUDA operators (ops_cuda.cpp); no device is touched.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

namespace pconv::cuda {
// As in ops_cuda.h, which includes torch: see module.cpp.
void set_tf32_reader(int (*reader)());
void set_wgmma(int choice);
}  // namespace pconv::cuda

namespace py = pybind11;

namespace {

py::object* reader = nullptr;  // never destroyed: operators may run until the process ends

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

}  // namespace

PYBIND11_MODULE(_C_cuda, m) {
    m.doc() = "CUDA kernels of pconv_cuda's operators, registered on import.";
    m.attr("architectures") = PCONV_ARCHITECTURES;
    m.def("set_tf32_reader", &set_tf32_reader, "A callable that says whether torch allows tf32 in convolutions.");
    m.def(
        "set_wgmma", [](std::optional<bool> choice) { pconv::cuda::set_wgmma(choice ? int(*choice) : -1); },
        "Whether devices of sm_90 take their wgmma kernels from now on; None: as PCONV_WGMMA says.");
}
