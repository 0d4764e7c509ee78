// What a launcher hands back: an error code, and the name of the kernel that could not be launched.
// Plain C++, so that the glue may include it without nvcc.
#pragma once

#ifdef PCONV_EMULATE
#include "cuda_shim.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace pconv::cuda {

struct Status {
    cudaError_t error = cudaSuccess;
    const char* kernel = "";  // a literal; empty where nothing went wrong

    bool ok() const { return error == cudaSuccess; }
};

}  // namespace pconv::cuda
