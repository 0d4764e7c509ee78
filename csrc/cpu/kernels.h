// The border between torch and the kernels: plain pointers and PODs, no Tensor, no allocation.
// Both sides include this file, so that the compiler checks the signatures.
//
// These run on torch's thread pool and return when they are done. The CUDA side of the border is cuda/host/run.h.
#pragma once

#include "../geometry.h"
#include "../windows.h"

namespace pconv::cpu {

// Any mask as bytes: out[i] = mask[i] < 0 || mask[i] > 0 (NaN is a hole). sizes and strides in elements.
void mask_to_bytes(
    const void* mask,  // [sizes] of dtype
    DType dtype, const int64_t sizes[4], const int64_t strides[4],
    uint8_t* out);  // [sizes], contiguous

// How many elements are neither 0 nor 1, NaN included (PCONV_CHECK=1).
int64_t count_not_binary(const void* mask, DType dtype, const int64_t sizes[4], const int64_t strides[4]);

bool has_zero(const uint8_t* bytes, int64_t count);

// Window sums, their ratios, and where they are not 0. Returns true where every ratio is 1, so that the
// caller may leave out the passes that would multiply by it.
bool window_ratio(
    const Geometry& geometry, const Mask& mask, const Ratio& ratio,
    uint8_t* new_mask);  // [ratio.n, ratio.groups, P, Q]

// The same for windows over two or three axes, transposed ones too. The mask has one block, or one a channel.
bool window_ratio(
    const Windows& windows, const Mask& mask, const Ratio& ratio,
    uint8_t* new_mask);  // [ratio.n, ratio.groups, out of each axis]

// out = mask ? x : 0, a select: NaN in a hole does not get through. In place (out == x) only holes are touched.
void masked_copy(
    const Geometry& geometry, const Mask& mask,
    const void* x,  // [N, C, H, W] in the layout
    void* out);     // the same

// The same for contiguous tensors and a mask of one block; in place all is written.
void masked_copy_planes(
    const Geometry& geometry, const Mask& mask,
    const void* x,  // [N, C, H W]
    void* out);     // the same

// y = ratio > 0 ? act(raw * ratio + bias) : 0, worked out in fp32 (fp64) and rounded once; in place too (y == raw).
void renormalise(
    const Geometry& geometry, const Ratio& ratio,
    const void* bias,       // [K] or nullptr
    double negative_slope,  // act(v) = v < 0 ? negative_slope * v : v
    const void* raw,        // [N, K, P, Q] in the layout
    void* y);               // the same

// Whether few_channels below takes this problem, and is faster than masked_copy, a convolution and renormalise.
bool suits_few_channels(const Geometry& geometry, const Mask& mask);

// y = ratio > 0 ? act(ratio * convolution(mask ? x : 0, weight) + bias) : 0, for fp32 and channels_last, y written
// once.
void few_channels(
    const Geometry& geometry, const Mask& mask, const Ratio& ratio,
    const float* x,                                     // [N, H, W, C]
    const float* weight, const int64_t weight_step[4],  // [K, C, R, S], with its strides in elements
    const float* bias,                                  // [K] or nullptr
    float negative_slope,                               // as above
    float* y);                                          // [N, P, Q, K]

// ---- Convolutions by Winograd's algorithms, channels_last fp32.

// Whether this machine has the vectors that they need.
bool has_winograd();

// A 3x3 convolution of stride 1 and padding 1, or its adjoint (the convolution that is its gradient by x).
struct Conv3x3 {
    int64_t n, c, k, h, w;
    bool adjoint;
};

// y = act(convolution(gate > 0 ? x : 0, weight) + bias) in a quarter of the products. Its error is several times that
// of a direct convolution: for frozen networks.
void winograd_4x4(
    const Conv3x3& conv, bool relu,
    const float* x,                                     // [N, H, W, C]
    const float* gate,                                  // the same, or nullptr: open everywhere
    const float* weight, const int64_t weight_step[4],  // [K, C, 3, 3], adjoint: [C, K, 3, 3], its strides in elements
    const float* bias,                                  // [K] or nullptr
    float* y);                                          // [N, H, W, K]

// What the functions below read (x) or write (dx): a layer's input, or a decoder stage's two. mask: nullptr bytes where
// there are no holes; pixels in holes count as zeros, and their gradient is 0.
struct WinogradSource {
    const float* x = nullptr;
    float* dx = nullptr;  // nullptr: not wanted
    Mask mask;
};
struct WinogradSources {
    WinogradSource full;       // [N, H, W, C - low_channels]
    WinogradSource low;        // of a stage: [N, H / 2, W / 2, low_channels], doubled
    int64_t low_channels = 0;  // the first of the C
};

// Whether they can: windows of 2 or 3 with stride 1 and of 3 to 6 with stride 2 whose padding puts them around their
// pixel, and stages (low_channels > 0).
bool takes_winograd_2x2(const Geometry& geometry, int64_t low_channels);

// Whether they are then faster than masked_copy, a convolution and renormalise.
bool pays_winograd_2x2(const Geometry& geometry, int64_t low_channels);

// y = ratio > 0 ? act(ratio * convolution(mask ? x : 0, weight) + bias) : 0, with a direct convolution's error.
void winograd_2x2(
    const Geometry& geometry, const WinogradSources& sources, const Ratio& ratio, const float* weight,
    const int64_t weight_step[4],  // [K, C, R, S], with its strides in elements
    const float* bias,             // [K] or nullptr
    float negative_slope,          // as above
    float* y);                     // [N, P, Q, K]

// The gradients by x into sources.
void winograd_2x2_input_gradient(
    const Geometry& geometry, const WinogradSources& sources, const float* weight, const int64_t weight_step[4],
    const float* scaled);  // [N, P, Q, K]: ratio * gradient

// The gradient by the weight. Sums are taken in a fixed order.
void winograd_2x2_weight_gradient(
    const Geometry& geometry, const WinogradSources& sources, const float* scaled, float* dw, const int64_t dw_step[4]);

// scaled = ratio > 0 ? ratio * grad : 0 and sums += grad where ratio > 0, in one pass over grad. Sums are taken in a
// fixed order: the same bits whatever the number of threads, and whether a batch comes at once or in parts.
void scale_gradient(
    const Geometry& geometry, const Ratio& ratio,
    const void* grad,  // [N, K, P, Q] in the layout
    void* scaled,      // the same, or nullptr
    double* sums);     // [K] or nullptr

// The same for contiguous tensors.
void scale_gradient_planes(
    const Geometry& geometry, const Ratio& ratio,
    const void* grad,  // [N, K, P Q]
    void* scaled,      // the same
    double* sums);     // [K] or nullptr

// sums += term.
void add_to_sums(
    DType dtype,
    const void* term,  // [count]
    int64_t count, double* sums);

// out = sums, rounded.
void round_sums(DType dtype, const double* sums, int64_t count,
                void* out);  // [count]

// ---- the decoder's stage: a 3x3 convolution of [low, doubled | skip]. The geometry is that convolution's, with
// c = Cu + Cs, h = p and w = q even, stride 1 and padding 1; cpu/phases.h has the index arithmetic.

// The filters' low half as four 2x2 filters, one for each parity (a, b) of the output's row and column.
void upcat_phases(
    DType dtype, int64_t filters, int64_t low_channels, const void* weight,
    const int64_t step[4],  // [K, C, 3, 3], its strides in elements
    void* phases);          // [4 K, 2, 2, Cu]

// Its transpose: the phases' gradient into dw's low half.
void upcat_fold(
    DType dtype, int64_t filters, int64_t low_channels, const void* phases_grad,
    const int64_t phase_step[4],       // [4 K, Cu, 2, 2], dense in either layout
    void* dw, const int64_t step[4]);  // [K, C, 3, 3]

// y = ratio > 0 ? act(ratio * (y + up) + bias) : 0, in place, the phases put in their places.
void upcat_finish(
    const Geometry& geometry, const Ratio& ratio,
    const void* up,    // [N, 4 K, H / 2 + 1, W / 2 + 1] in the layout
    const void* bias,  // [K] or nullptr
    double negative_slope,
    void* y);  // [N, K, H, W] in the layout

// Its transpose: ratio * gradient taken apart into phases, zeros where a phase has no pixel.
void upcat_spread(
    const Geometry& geometry,
    const void* scaled,  // [N, K, H, W] in the layout
    void* up);           // [N, 4 K, H / 2 + 1, W / 2 + 1] in the layout

// Both masks at full resolution as two blocks; a missing one is all valid.
void upcat_masks(
    const Geometry& geometry, const Mask& low, const Mask& skip, int64_t batch,
    uint8_t* out);  // [batch, 2, H, W]

// joined = valid ? [low, doubled | skip] : 0
void upcat_join(
    const Geometry& geometry, int64_t low_channels,
    const void* low,                       // [N, Cu, H / 2, W / 2] in the layout
    const void* skip,                      // [N, Cs, H, W] in the layout
    const uint8_t* valid, int64_t mask_n,  // [mask_n, 2, H, W]
    void* joined);                         // [N, Cu + Cs, H, W] in the layout

// Its transpose.
void upcat_part(
    const Geometry& geometry, int64_t low_channels,
    const void* joined,  // [N, Cu + Cs, H, W] in the layout
    void* low,           // [N, Cu, H / 2, W / 2] or nullptr
    void* skip);         // [N, Cs, H, W] or nullptr

// ---- smooth_fill: a thin plate under tension in the holes of each plane; pconv_cuda/smooth.py is the same in torch.

struct SmoothFill {
    int64_t n, c, h, w;
    Layout layout;
    DType dtype;
    const uint8_t* mask;  // [mask_n, mask_c, H, W], 0 in holes, each 1 or n and 1 or c
    int64_t mask_n, mask_c;
    double tension;    // 0 to 1: (1 - tension) L(L(u)) = tension L(u)
    double tolerance;  // the solution's error in the energy's norm, in parts of the start's
    int64_t max_iterations;
};

// The first of the mask's planes that has no valid pixel, or -1.
int64_t plane_without_valid(const SmoothFill& fill);

// Writes the holes of out. What lies in the holes of in is not read.
void smooth_fill(
    const SmoothFill& fill,
    const void* in,  // [N, C, H, W] in the layout
    void* out);      // the same, a copy of in

}  // namespace pconv::cpu
