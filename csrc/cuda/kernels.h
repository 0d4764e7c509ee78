// The launches that make up the operators (run_forward.cpp, run_backward.cpp): one function a launch, plain data by
// value. Tensors that only these functions see ("packed") are channels_last with their channels padded to 16 bytes, so
// that the fast kernels need to know one layout alone.
#pragma once

#include "../windows.h"
#include "problem.h"
#include "status.h"

namespace pconv::cuda {

// ---- masks and counts (counts.cu)

// out[i] = mask[i] < 0 || mask[i] > 0, for any dtype and strides (NaN is a hole).
Status mask_to_bytes(
    const void* mask,  // [sizes], strides in elements
    DType dtype, const int64_t sizes[4], const int64_t strides[4],
    uint8_t* out,  // [sizes], contiguous
    cudaStream_t stream);

// *odd = how many elements are neither 0 nor 1, NaN included. Integer atomics: the order does not matter.
Status count_not_binary(
    const void* mask,  // [sizes], strides in elements
    DType dtype, const int64_t sizes[4], const int64_t strides[4],
    unsigned long long* odd,  // [1], zeroed by this launch
    cudaStream_t stream);

// Ratios and new mask where the fused kernels do not make them: groups, per-channel masks.
struct WindowRatio {
    Geometry g;
    Mask mask;
    void* ratio;        // [ratio_n, ratio_groups, P, Q] fp32, fp64 for doubles
    uint8_t* new_mask;  // [ratio_n, ratio_groups, P, Q]
    int64_t ratio_n, ratio_groups;
};
Status window_ratio(const WindowRatio& a, cudaStream_t stream);

// The same for windows over two or three axes, transposed ones too (windows.cu). One block of the mask, or one a
// channel.
struct WindowsRatio {
    Windows windows;
    Mask mask;
    void* ratio;        // [ratio_n, ratio_groups, out of each axis] fp32, fp64 for doubles
    uint8_t* new_mask;  // the same
    int64_t ratio_n, ratio_groups;
};
Status windows_ratio(const WindowsRatio& a, cudaStream_t stream);

// ---- around a library's convolution: any dtype, groups, per-channel masks, 64-bit offsets (composed.cu)

// out = m ? x : 0, a select. In place (out == x) only holes are written.
struct MaskedCopy {
    Geometry g;
    Mask mask;
    const void* x;  // [N, C, H, W], dense in the geometry's layout
    void* out;      // the same
};
Status masked_copy(const MaskedCopy& a, cudaStream_t stream);

// y = ratio > 0 ? activation of (ratio * y + bias) : 0, in place, in fp32 (fp64 for doubles), rounded once.
struct Renormalise {
    Geometry g;
    const void* ratio;  // [ratio_n, ratio_groups, P, Q]
    int64_t ratio_n, ratio_groups;
    const void* bias;       // [K] or nullptr
    double negative_slope;  // of the activation, 1: none
    void* y;                // [N, K, P, Q], dense in the geometry's layout
};
Status renormalise(const Renormalise& a, cudaStream_t stream);

// ---- into and out of the packed form (pack.cu; what adds partial sums: splits.cu)

// packed = x, masked where the mask is per channel (mask.bytes != nullptr), channels padded with zeros.
Status pack_activation(
    DType dtype, int64_t n, int64_t c, int64_t h, int64_t w, const Packing& packing, const Mask& mask, const void* x,
    const Strides& x_strides,  // [N, C, H, W]: NCHW or channels_last
    void* packed,              // [N, H, W, start[blocks]]
    cudaStream_t stream);

// packed = weight, its channels padded with zeros; transposed: the channels become rows, for dgrad in fp32.
Status pack_weight(
    DType dtype, int64_t k, int64_t c, int64_t r, int64_t s, const Packing& packing, bool transposed, int64_t k_padded,
    const void* weight, const Strides& w_strides,  // [K, C, R, S]
    void* packed,                                  // [K, R, S, start[blocks]], transposed: [C, R, S, k_padded]
    cudaStream_t stream);

// dw = the partial sums added in a fixed order, out of the packed form.
Status reduce_wgrad(
    DType dtype, int64_t k, int64_t c, int64_t r, int64_t s, const Packing& packing, int64_t splits,
    float* partial,                       // [splits, K, R, S, start[blocks]], may be written
    void* dw, const Strides& dw_strides,  // [K, C, R, S]
    cudaStream_t stream);

// The sums of all splits, added in a fixed order, in place of the first one.
Status sum_splits(
    float* partial,  // [splits, size]
    int64_t size,    // a multiple of 4
    int64_t splits, cudaStream_t stream);

// ratio = mask ? 1 : 0: a mask in the shape of ratios, to select by.
Status mask_as_ratio(const uint8_t* mask, int64_t pixels, float* ratio, cudaStream_t stream);

// Partial sums of a split fprop (or dgrad) added in order, then the epilogue.
// fprop: out = ratio > 0 ? activation of (ratio * sum + bias) : 0; dgrad: ratio == nullptr, out = mask ? sum : 0.
Status finish_splits(
    DType dtype, int64_t n, int64_t channels, int64_t h, int64_t w, int64_t splits,
    const float* partial,                   // [splits, N * H * W, channels]
    const float* ratio, int64_t ratio_n,    // [ratio_n, 1, H, W] or nullptr
    const void* bias,                       // [channels] or nullptr
    float negative_slope,                   // of the activation, 1: none
    const Mask& mask,                       // over the channels of out
    void* out, const Strides& out_strides,  // [N, channels, H, W]
    cudaStream_t stream);

// ---- the gradient's one pass (scale_gradient.cu)

// scaled = ratio > 0 ? ratio * grad : 0, channels_last with the channels padded to k_padded (zeros), and
// db = sum of grad where ratio > 0, in fixed pieces that are added in order.
int64_t scale_gradient_workspace(const Geometry& g);  // bytes
Status scale_gradient(
    const Geometry& g, const void* grad, const Strides& grad_strides,  // [N, K, P, Q]: NCHW or channels_last
    const void* ratio, int64_t ratio_n, int64_t ratio_groups,          // [ratio_n, ratio_groups, P, Q]
    int64_t k_padded,
    void* scaled,     // [N, P, Q, k_padded] or nullptr
    void* db,         // [K] or nullptr
    void* workspace,  // scale_gradient_workspace(g) bytes
    cudaStream_t stream);

}  // namespace pconv::cuda
