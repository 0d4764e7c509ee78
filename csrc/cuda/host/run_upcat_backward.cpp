// The decoder stage's backward as a sequence of launches. ratio * gradient and the bias gradient are made once; the
// skip's half is then the ordinary backward of its own channels, and low's half is two products of a 4x4 convolution of
// the scaled gradient with stride 2 (upcat_gradient.cu): its forward is low's gradient, its weight gradient, folded,
// dw's.
//
// Workspace of the paper's layers at batch 6: the scaled gradient (the output's size), low's filters (16 K Cu numbers)
// and the partial sums, at most 32 MiB a half (plan.cpp).
#include "../upcat/upcat.h"
#include "run_upcat.h"
#include "wgrad_parts.h"
#include "workspace.h"

#include <algorithm>

namespace pconv::cuda {
namespace {

int64_t images_of(const Mask& mask, int64_t n) { return mask.batch_step ? n : 1; }

struct Buffers : UpcatBackwardPlan {
    int64_t low_padded;
    void *scaled, *sums, *low_valid, *filters, *fprop_partial, *masked_low, *wgrad_partial;
    void *joined, *joined_mask, *joined_gradient;  // the composed way
    void* rest;
};

// The skip's half, or in the composed way everything, as an ordinary backward.
Backward skip_backward(const UpcatBackward& stage, const Buffers& b) {
    const Geometry& g = stage.geometry;
    Backward call{};
    call.geometry = g;
    call.tf32 = stage.tf32;
    call.grad = stage.grad;
    call.ratio = stage.ratio, call.ratio_n = stage.ratio_n, call.ratio_groups = 1;
    call.weight = stage.weight, call.weight_strides = stage.weight_strides;
    call.dw = stage.dw, call.dw_strides = stage.dw_strides;
    if (b.composed) {
        call.mask = joined_mask_of(stage, b.joined_mask);
        call.x = b.joined;
        call.dx = stage.dlow || stage.dskip ? b.joined_gradient : nullptr;
        call.db = stage.db;
        return call;
    }
    const int64_t low = stage.low_channels, element = bytes_of(g.dtype);
    call.geometry.c = g.c - low;
    call.mask = stage.skip_mask;
    call.x = stage.skip;
    call.weight = static_cast<const uint8_t*>(call.weight) + low * stage.weight_strides.at[1] * element;
    if (stage.dw) call.dw = static_cast<uint8_t*>(stage.dw) + low * stage.dw_strides.at[1] * element;
    call.dx = stage.dskip;
    call.is_scaled = true;
    call.scaled = b.scaled;
    return call;
}

Buffers cut(const UpcatBackward& call, const Device& device, Arena& arena) {
    const Geometry& g = call.geometry;
    const int64_t element = bytes_of(g.dtype), chunk = 16 / element, pixels = g.n * g.h * g.w;
    Buffers b{make_upcat_backward_plan(g, call.low_channels, call.tf32, device)};
    b.low_padded = (call.low_channels + chunk - 1) / chunk * chunk;
    if (b.composed) {
        b.joined = arena.take(pixels * g.c * element);
        if (call.low_mask.bytes || call.skip_mask.bytes) b.joined_mask = arena.take(call.ratio_n * 2 * g.h * g.w);
        if (call.dlow || call.dskip) {
            b.joined_gradient = arena.take(pixels * g.c * element);
            // Measuring too has to see that it is wanted.
            if (!b.joined_gradient) b.joined_gradient = call.dlow ? call.dlow : call.dskip;
        }
        b.rest = arena.take(backward_workspace(skip_backward(call, b), device));
        return b;
    }
    const Geometry& low = b.low_convolution;
    const int64_t small_pixels = low.n * low.p * low.q, filters = low.k * 16 * b.k_padded;
    if (call.dlow || call.dskip || call.dw) b.scaled = arena.take(pixels * b.k_padded * element);
    b.sums = arena.take(scale_gradient_workspace(g));
    if (call.dlow || call.dw) b.low_valid = arena.take(images_of(call.low_mask, call.geometry.n) * low.p * low.q * 4);
    if (call.dlow) {
        b.filters = arena.take(filters * element);
        if (b.fprop.splits > 1)
            b.fprop_partial =
                arena.take(std::min(low.n, b.fprop.images_a_launch) * low.p * low.q * low.k * b.fprop.splits * 4);
    }
    if (call.dw) {
        b.masked_low = arena.take(small_pixels * b.low_padded * element);
        b.wgrad_partial = arena.take(wgrad_parts_of(low, b.wgrad) * b.wgrad.splits * filters * 4);
    }
    b.rest = arena.take(backward_workspace(skip_backward(call, b), device));
    return b;
}

// low's mask as ratios of 1 and 0: in the shape of [low_mask.n, 1, H / 2, W / 2] they select as ratios do.
Status low_validity(const UpcatBackward& call, const Buffers& b, cudaStream_t stream) {
    const Geometry& low = b.low_convolution;
    return mask_as_ratio(
        call.low_mask.bytes, images_of(call.low_mask, call.geometry.n) * low.p * low.q, static_cast<float*>(b.low_valid), stream);
}

Status run_low_gradient(const UpcatBackward& call, const Buffers& b, cudaStream_t stream) {
    const Geometry& g = b.low_convolution;
    const Plan& plan = b.fprop;
    const int64_t element = bytes_of(g.dtype);
    const bool nchw = call.geometry.layout == Layout::nchw, shared_mask = images_of(call.low_mask, call.geometry.n) == 1;
    Status status = upcat_gradient_filters(
        g.dtype, call.geometry.k, g.k, b.k_padded, call.weight, call.weight_strides, b.filters, stream);
    GemmParams p{};
    p.packing = plan.packing;
    p.filters = b.filters;
    p.partial = static_cast<float*>(b.fprop_partial);
    p.out_nchw = nchw;
    p.source_h = int(g.h), p.source_w = int(g.w), p.source_channels = p.filter_channels = int(g.c);
    p.columns = p.filter_rows = int(g.k);
    p.r = p.s = 4, p.dil_h = p.dil_w = 1, p.pad_h = p.pad_w = 1, p.stride_h = p.stride_w = 2;
    p.out_h = int(g.p), p.out_w = int(g.q);
    p.patch_h = plan.patch_h, p.patch_w = plan.patch_w;
    p.taps_a_step = plan.taps_a_step;
    p.splits = plan.splits;
    p.negative_slope = 1;
    for (int64_t first = 0; status.ok() && first < g.n; first += plan.images_a_launch) {
        const int64_t images = std::min(plan.images_a_launch, g.n - first), pixels = g.p * g.q;
        p.n = int(images);
        p.source = static_cast<const uint8_t*>(b.scaled) + first * g.h * g.w * g.c * element;
        p.ratio_in = static_cast<const float*>(b.low_valid) + (shared_mask ? 0 : first * pixels);
        p.ratio_n = int(shared_mask ? 1 : images);
        p.out = static_cast<uint8_t*>(call.dlow) + first * pixels * g.k * element;
        status = gemm_fprop(plan.math, plan.tile, p, stream);
        if (status.ok() && p.partial)
            status = finish_splits(
                g.dtype, images, g.k, g.p, g.q, plan.splits, p.partial, p.ratio_in, p.ratio_n, nullptr, 1, Mask{},
                p.out, dense(call.geometry.layout, g.k, g.p, g.q), stream);
    }
    return status;
}

Status run_low_weight_gradient(const UpcatBackward& call, const Buffers& b, cudaStream_t stream) {
    const Geometry& low = b.low_convolution;
    // A masked, packed copy of low: the pass that scales gradients selects by the same rule.
    Geometry as_gradient = low;
    as_gradient.layout = call.geometry.layout;
    Status status = scale_gradient(
        as_gradient, call.low, dense(as_gradient.layout, low.k, low.p, low.q), b.low_valid, images_of(call.low_mask, call.geometry.n), 1,
        b.low_padded, b.masked_low, nullptr, nullptr, stream);
    auto* const partial = static_cast<float*>(b.wgrad_partial);
    if (status.ok()) status = wgrad_parts(low, b.wgrad, Mask{}, b.masked_low, b.scaled, partial, stream);
    if (status.ok())
        status = sum_splits(partial, low.k * 16 * b.k_padded, wgrad_parts_of(low, b.wgrad) * b.wgrad.splits, stream);
    if (!status.ok()) return status;
    return upcat_gradient_fold(
        low.dtype, call.geometry.k, low.k, b.k_padded, partial, call.dw, call.dw_strides, stream);
}

Status run_composed(const UpcatBackward& call, const Buffers& b, const Device& device, cudaStream_t stream) {
    const Backward everything = skip_backward(call, b);
    Status status = upcat_join(call, b.joined, b.joined_mask, stream);
    if (status.ok()) status = run_backward(everything, device, b.rest, stream);
    if (status.ok() && (call.dlow || call.dskip))
        status = upcat_part(call, b.joined_gradient, call.dlow, call.dskip, stream);
    return status;
}

}  // namespace

int64_t upcat_backward_workspace(const UpcatBackward& call, const Device& device) {
    Arena arena(nullptr);
    cut(call, device, arena);
    return arena.used();
}

Status run_upcat_backward(const UpcatBackward& call, const Device& device, void* workspace, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    Arena arena(workspace);
    const Buffers buffers = cut(call, device, arena);
    if (buffers.composed) return run_composed(call, buffers, device, stream);
    Status status = scale_gradient(
        g, call.grad, dense(g.layout, g.k, g.h, g.w), call.ratio, call.ratio_n, 1, buffers.k_padded, buffers.scaled,
        call.db, buffers.sums, stream);
    if (status.ok() && (call.dlow || call.dw)) status = low_validity(call, buffers, stream);
    if (status.ok() && call.dlow) status = run_low_gradient(call, buffers, stream);
    if (status.ok() && call.dw) status = run_low_weight_gradient(call, buffers, stream);
    if (status.ok() && (call.dskip || call.dw)) {
        status = run_backward(skip_backward(call, buffers), device, buffers.rest, stream);
    }
    return status;
}

}  // namespace pconv::cuda
