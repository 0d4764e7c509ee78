// Starting a kernel without the <<<>>> syntax, which g++ does not know: the same call launches on a device, or runs
// the grid thread by thread where PCONV_EMULATE is defined (tests/emulation).
#pragma once

#include <cstddef>
#include <tuple>
#include <utility>

#include "status.h"
#ifndef PCONV_EMULATE
#include <cuda_runtime.h>
#endif

namespace pconv::cuda {

// The limits of every architecture that the kernels are built for. Checked here, because a device answers a grid
// that is too long with a code that names neither the kernel nor the axis.
inline bool grid_fits(dim3 grid) { return grid.x <= 0x7fffffffu && grid.y <= 65535u && grid.z <= 65535u; }

inline bool grid_is_empty(dim3 grid) { return grid.x == 0 || grid.y == 0 || grid.z == 0; }

#ifdef PCONV_EMULATE

template <class... Parameters, class... Arguments>
cudaError_t start_grid(
    const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
    Arguments&&... arguments) {
    const std::tuple<Parameters...> parameters(std::forward<Arguments>(arguments)...);
    emu::record_kernel(reinterpret_cast<const void*>(kernel), name);
    return emu::run_grid(grid, block, shared_bytes, [&] { std::apply(kernel, parameters); });
}

#else

template <class... Parameters, class... Arguments>
cudaError_t start_grid(
    const char*, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
    Arguments&&... arguments) {
    // What every device grants without being asked; more has to be asked for, kernel by kernel.
    constexpr size_t granted = 48 * 1024;
    cudaError_t error = cudaSuccess;
    if (shared_bytes > granted) {
        error = cudaFuncSetAttribute(
            reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
            static_cast<int>(shared_bytes));
    }
    if (error == cudaSuccess) {
        cudaLaunchConfig_t config{};
        config.gridDim = grid;
        config.blockDim = block;
        config.dynamicSmemBytes = shared_bytes;
        config.stream = stream;
        error = cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
    }
    // The runtime keeps a refused call as its last error, which the next caller (torch) would take for its own.
    if (error != cudaSuccess) cudaGetLastError();
    return error;
}

#endif

// An empty grid is success: nothing is there to be computed, and a device would refuse it.
template <class... Parameters, class... Arguments>
Status launch(
    const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
    Arguments&&... arguments) {
    if (!grid_fits(grid)) return {cudaErrorInvalidConfiguration, name};
    if (grid_is_empty(grid)) return {};
    const cudaError_t error =
        start_grid(name, kernel, grid, block, shared_bytes, stream, std::forward<Arguments>(arguments)...);
    return error == cudaSuccess ? Status{} : Status{error, name};
}

}  // namespace pconv::cuda
