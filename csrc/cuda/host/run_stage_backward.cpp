// The decoder stage's backward as a sequence of launches. ratio * gradient and the bias gradient are made once; the
// skip's half is then the backward of its own channels with one source, and low's half is two products of a 4x4
// convolution of the scaled gradient with stride 2 (upcat_gradient.cu): its forward is low's gradient, its weight
// gradient, folded, dw's.
//
// Workspace of the paper's layers at batch 6: the scaled gradient (the output's size), low's filters (16 K Cu numbers)
// and the partial sums, those of the weight at most 32 MiB a half (tile_choice.cpp).
#include "../upcat/upcat.h"
#include "parts.h"

namespace pconv::cuda {
namespace {

int64_t mask_images(const Backward& call) { return call.mask.batch_step ? call.geometry.n : 1; }

struct Buffers : UpcatBackwardPlan {
    int64_t low_padded;
    void *scaled, *sums, *low_valid, *filters, *fprop_partial, *masked_low, *wgrad_partial;
    void *joined, *joined_mask, *joined_gradient;  // materialised
    void* rest;
};

// The backward of the skip's channels.
Backward skip_backward(const Backward& stage, const void* scaled) {
    const DType dtype = stage.geometry.dtype;
    const int64_t low = stage.low_channels;
    Backward call = stage;
    call.low_channels = 0;
    call.geometry.c -= low;
    call.x = stage.skip, call.mask = stage.skip_mask, call.dx = stage.dskip;
    call.weight = from_image(stage.weight, low, stage.weight_strides.at[1], dtype);
    if (stage.dw) call.dw = const_cast<void*>(from_image(stage.dw, low, stage.dw_strides.at[1], dtype));
    call.db = nullptr;
    call.is_scaled = true;
    call.scaled = scaled;
    return call;
}

// The backward of the materialised input.
Backward joined_backward(const Backward& stage, const Buffers& b) {
    Backward call = stage;
    call.low_channels = 0;
    call.x = b.joined, call.mask = joined_mask_of(stage, b.joined_mask);
    call.dx = stage.dx || stage.dskip ? b.joined_gradient : nullptr;
    return call;
}

Buffers allocate_workspace(const Backward& call, const Device& device, Workspace& workspace) {
    const Geometry& g = call.geometry;
    const int64_t element = bytes_of(g.dtype), pixels = g.n * g.h * g.w;
    Buffers b{make_upcat_backward_plan(g, call.low_channels, call.tf32, device)};
    b.low_padded = round_up(call.low_channels, 16 / element);
    if (b.materialised) {
        b.joined = workspace.take(pixels * g.c * element);
        if (has_mask(call)) b.joined_mask = workspace.take(call.ratio_n * 2 * g.h * g.w);
        if (call.dx || call.dskip) {
            b.joined_gradient = workspace.take(pixels * g.c * element);
            // Non-null while measuring too.
            if (!b.joined_gradient) b.joined_gradient = call.dx ? call.dx : call.dskip;
        }
        b.rest = workspace.take(backward_workspace(joined_backward(call, b), device));
        return b;
    }
    const Geometry& low = b.low_convolution;
    const int64_t small_pixels = low.n * low.p * low.q, filters = low.k * 16 * b.k_padded;
    if (call.dx || call.dskip || call.dw) b.scaled = workspace.take(pixels * b.k_padded * element);
    b.sums = workspace.take(scale_gradient_workspace(g));
    if (call.dx || call.dw) b.low_valid = workspace.take(mask_images(call) * low.p * low.q * 4);
    if (call.dx) {
        b.filters = workspace.take(filters * element);
        b.fprop_partial = workspace.take(partial_bytes(b.fprop, low.n, low.p, low.q, low.k));
    }
    if (call.dw) {
        b.masked_low = workspace.take(small_pixels * b.low_padded * element);
        b.wgrad_partial = workspace.take(parts_of(low.n, b.wgrad) * b.wgrad.splits * filters * 4);
    }
    b.rest = workspace.take(backward_workspace(skip_backward(call, b.scaled), device));
    return b;
}

// low's mask as ratios of 1 and 0: in the shape of [images, 1, H / 2, W / 2] they select as ratios do.
Status low_validity(const Backward& call, const Buffers& b, cudaStream_t stream) {
    const Geometry& low = b.low_convolution;
    return mask_as_ratio(call.mask.bytes, mask_images(call) * low.p * low.q, static_cast<float*>(b.low_valid), stream);
}

Status run_low_gradient(const Backward& call, const Buffers& b, cudaStream_t stream) {
    const Geometry& g = b.low_convolution;
    const Plan& plan = b.fprop;
    const Status status = upcat_gradient_filters(
        g.dtype, call.geometry.k, g.k, b.k_padded, call.weight, call.weight_strides, b.filters, stream);
    if (!status.ok()) return status;
    GemmParams p{};
    p.output.ratio_in = static_cast<const float*>(b.low_valid);
    p.output.ratio_n = int(mask_images(call));
    p.output.out = call.dx;
    p.output.partial = static_cast<float*>(b.fprop_partial);
    p.output.nchw = call.geometry.layout == Layout::nchw;
    p.output.n = int(g.n), p.output.h = int(g.p), p.output.w = int(g.q), p.output.columns = int(g.k);
    p.tiling = tiling_of(plan);
    p.packing = plan.packing;
    p.window = window_of(g);
    p.source = b.scaled;
    p.source_h = int(g.h), p.source_w = int(g.w), p.source_channels = p.filter_channels = int(g.c);
    p.filters = b.filters;
    p.filter_rows = int(g.k);
    return run_gemm_parts(p, plan, g.dtype, false, stream, [&](const GemmParams& part) {
        return gemm_fprop(plan.math, plan.tile, part, stream);
    });
}

Status run_low_weight_gradient(const Backward& call, const Buffers& b, cudaStream_t stream) {
    const Geometry& low = b.low_convolution;
    // A masked, packed copy of low: the pass that scales gradients selects by the same rule.
    Geometry as_gradient = low;
    as_gradient.layout = call.geometry.layout;
    Status status = scale_gradient(
        as_gradient, call.x, dense(as_gradient.layout, low.k, low.p, low.q), b.low_valid, mask_images(call), 1,
        b.low_padded, b.masked_low, nullptr, nullptr, stream);
    auto* const partial = static_cast<float*>(b.wgrad_partial);
    int64_t sums = 0;
    if (status.ok()) status = run_wgrad_parts(low, b.wgrad, Mask{}, b.masked_low, b.scaled, partial, sums, stream);
    if (status.ok()) status = sum_splits(partial, low.k * 16 * b.k_padded, sums, stream);
    if (!status.ok()) return status;
    return upcat_gradient_fold(
        low.dtype, call.geometry.k, low.k, b.k_padded, partial, call.dw, call.dw_strides, stream);
}

Status run_materialised(const Backward& call, const Buffers& b, const Device& device, cudaStream_t stream) {
    Status status = upcat_join(call, b.joined, b.joined_mask, stream);
    if (status.ok()) status = run_backward(joined_backward(call, b), device, b.rest, stream);
    if (status.ok() && (call.dx || call.dskip))
        status = upcat_part(call, b.joined_gradient, call.dx, call.dskip, stream);
    return status;
}

}  // namespace

Kernels stage_kernels_of(const Backward& call, const Device& device) {
    Workspace workspace(nullptr);
    const Buffers b = allocate_workspace(call, device, workspace);
    Kernels found = kernels_of(b.materialised ? joined_backward(call, b) : skip_backward(call, nullptr), device);
    if (found.families == 0) return found;
    found.families |= family::stage;
    if (!b.materialised) {
        if (call.dx) add_product(b.fprop, 2, found);
        if (call.dw) add_product(b.wgrad, 3, found);
    }
    return found;
}

int64_t stage_backward_workspace(const Backward& call, const Device& device) {
    Workspace workspace(nullptr);
    allocate_workspace(call, device, workspace);
    return workspace.used();
}

Status run_stage_backward(const Backward& call, const Device& device, void* memory, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    Workspace workspace(memory);
    const Buffers b = allocate_workspace(call, device, workspace);
    if (!stage_kernels_of(call, device).families) return {cudaErrorNotSupported, "backward"};
    if (b.materialised) return run_materialised(call, b, device, stream);
    Status status = scale_gradient(
        g, call.grad, dense(g.layout, g.k, g.h, g.w), call.ratio, call.ratio_n, 1, b.k_padded, b.scaled, call.db,
        b.sums, stream);
    if (status.ok() && (call.dx || call.dw)) status = low_validity(call, b, stream);
    if (status.ok() && call.dx) status = run_low_gradient(call, b, stream);
    if (status.ok() && call.dw) status = run_low_weight_gradient(call, b, stream);
    if (status.ok() && (call.dskip || call.dw))
        status = run_backward(skip_backward(call, b.scaled), device, b.rest, stream);
    return status;
}

}  // namespace pconv::cuda
