// The description of a tensor that TMA reads by, made by the driver. The entry point is asked for at run time: nothing
// links against libcuda, so that the extension loads where no driver is installed.
#pragma once

#include "sm90.cuh"

#ifndef PCONV_EMULATE  // emulated_ptx_hopper.h has it

namespace pconv::cuda {

inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found);
#else
    cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    if (found != cudaDriverEntryPointSuccess) function = nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

// A dense tensor of 16-bit elements in boxes of [box_z, 1, 64] with the 128-byte swizzle; outside it is 0.
// size_x has to be a multiple of 8 (16 bytes), box_z at most 256.
inline cudaError_t make_tensor_map_3d(
    TensorMap* map,
    const void* tensor,  // [size_z, size_y, size_x]
    bool is_bf16, int64_t size_x, int64_t size_y, int64_t size_z, int box_z) {
    static const PFN_cuTensorMapEncodeTiled_v12000 encode = tensor_map_encoder();
    if (!encode) return cudaErrorNotSupported;
    const cuuint64_t sizes[3] = {cuuint64_t(size_x), cuuint64_t(size_y), cuuint64_t(size_z)};
    const cuuint64_t steps[2] = {cuuint64_t(size_x) * 2, cuuint64_t(size_x) * cuuint64_t(size_y) * 2};  // bytes
    const cuuint32_t box[3] = {64, 1, cuuint32_t(box_z)}, element_steps[3] = {1, 1, 1};
    const CUresult result = encode(
        map, is_bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3, const_cast<void*>(tensor),
        sizes, steps, box, element_steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace pconv::cuda

#endif  // PCONV_EMULATE
