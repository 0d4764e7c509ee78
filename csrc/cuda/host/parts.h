// Batches whose offsets do not fit into 32 bits are launched in parts.
#pragma once

#include "../gemm/gemm.h"
#include "workspace.h"

#include <algorithm>

namespace pconv::cuda {

// launch(first image, images) for one part after another.
template <class Launch>
Status for_each_part(int64_t n, const Plan& plan, const Launch& launch) {
    Status status;
    for (int64_t first = 0; status.ok() && first < n; first += plan.images_per_launch)
        status = launch(first, std::min(plan.images_per_launch, n - first));
    return status;
}

inline int64_t parts_of(int64_t n, const Plan& plan) { return div_up(n, plan.images_per_launch); }

inline const void* from_image(const void* tensor, int64_t first, int64_t image_elements, DType dtype) {
    return static_cast<const uint8_t*>(tensor) + first * image_elements * bytes_of(dtype);
}

inline Mask from_image(Mask mask, int64_t first) {
    if (mask.bytes) mask.bytes += first * mask.batch_step;
    return mask;
}

// Bytes of the partial sums of one part.
inline int64_t partial_bytes(const Plan& plan, int64_t n, int64_t out_h, int64_t out_w, int64_t columns) {
    return plan.splits > 1 ? std::min(n, plan.images_per_launch) * out_h * out_w * columns * plan.splits * 4 : 0;
}

inline Tiling tiling_of(const Plan& plan) { return {plan.patch_h, plan.patch_w, plan.taps_per_step, plan.splits}; }

// A product part by part, the splits' sums added after each: launch(first image, the part's output).
// whole: of the batch; mask: over the output, of dgrad.
template <class Launch>
Status run_parts(
    const Output& whole, const Plan& plan, DType dtype, const Mask& mask, cudaStream_t stream, const Launch& launch) {
    const int64_t pixels = int64_t(whole.h) * whole.w;
    const Strides strides = dense(whole.nchw ? Layout::nchw : Layout::nhwc, whole.columns, whole.h, whole.w);
    return for_each_part(whole.n, plan, [&](int64_t first, int64_t images) {
        const bool shared = whole.ratio_n == 1;
        const int64_t ratio_at = shared ? 0 : first * pixels;
        Output part = whole;
        part.n = int(images);
        if (!shared) part.ratio_n = int(images);
        if (whole.ratio_in) part.ratio_in += ratio_at;
        const float* const ratio = whole.ratio_in ? part.ratio_in : whole.ratio ? whole.ratio + ratio_at : nullptr;
        // A ratio that all images share is written by the first part.
        if (whole.ratio) part.ratio = shared && first > 0 ? nullptr : whole.ratio + ratio_at;
        if (whole.new_mask) part.new_mask += ratio_at;
        part.out = const_cast<void*>(from_image(whole.out, first, pixels * whole.columns, dtype));
        Status status = launch(first, part);
        if (status.ok() && part.partial)
            status = finish_splits(
                dtype, images, part.columns, part.h, part.w, plan.splits, part.partial, ratio, part.ratio_n, part.bias,
                part.negative_slope, from_image(mask, first), part.out, strides, stream);
        return status;
    });
}

// The same for the products of gemm_fprop and gemm_dgrad, p.source and p.mask being the batch's.
template <class Launch>
Status run_gemm_parts(
    GemmParams p, const Plan& plan, DType dtype, bool is_dgrad, cudaStream_t stream, const Launch& launch) {
    const int64_t image = int64_t(p.source_h) * p.source_w * p.source_channels;
    const GemmParams whole = p;
    return run_parts(
        whole.output, plan, dtype, is_dgrad ? whole.mask : Mask{}, stream, [&](int64_t first, const Output& part) {
            p.output = part;
            p.source = from_image(whole.source, first, image, dtype);
            p.mask = from_image(whole.mask, first);
            return launch(p);
        });
}

// Pixels that a weight gradient's kernel takes in a step, at most (wgmma's do: sm90_wgrad.cu). A split without a step
// leaves its sums unwritten there.
constexpr int64_t wgrad_pixels_per_step = 64;

// wgrad's products of a whole batch: each part leaves its splits' sums behind the one before. The last part may have
// fewer steps than the plan has splits.
inline Status run_wgrad_parts(
    const Geometry& g, const Plan& plan, const Mask& mask,
    const void* scaled,  // [N, P, Q, k_padded]
    const void* x,       // [N, H, W, start[blocks]]
    float* partial,      // [at most parts * splits][K][R * S][start[blocks]]
    int64_t& sums,       // how many of them there are
    cudaStream_t stream) {
    WgradParams p{};
    p.packing = plan.packing;
    p.window = window_of(g);
    p.channels = plan.packing.channels();
    p.h = int(g.h), p.w = int(g.w), p.k = int(g.k), p.k_padded = int(plan.k_padded), p.p = int(g.p), p.q = int(g.q);
    sums = 0;
    return for_each_part(g.n, plan, [&](int64_t first, int64_t images) {
        p.n = int(images);
        const int64_t steps = div_up(images * g.p * g.q, wgrad_pixels_per_step);
        p.splits = int(std::clamp<int64_t>(plan.splits, 1, std::max<int64_t>(steps, 1)));
        p.scaled = from_image(scaled, first, g.p * g.q * plan.k_padded, g.dtype);
        p.x = from_image(x, first, g.h * g.w * p.channels, g.dtype);
        p.mask = from_image(mask, first);
        p.partial = partial + sums * g.k * g.r * g.s * p.channels;
        sums += p.splits;
        return gemm_wgrad(plan.math, plan.tile, p, stream);
    });
}

}  // namespace pconv::cuda
