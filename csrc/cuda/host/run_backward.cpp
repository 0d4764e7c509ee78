// The backward operator as a sequence of launches: ratio * gradient and the bias gradient in one pass, then dgrad and
// wgrad.
#include "wgrad_parts.h"
#include "workspace.h"

#include <algorithm>

namespace pconv::cuda {
namespace {

struct Buffers {
    Plan dgrad, wgrad;
    const void* scaled;
    void *own_scaled, *sums, *packed_x, *packed_filters, *dgrad_partial, *wgrad_partial;
};

Buffers cut(const Backward& call, const Device& device, Arena& arena) {
    const Geometry& g = call.geometry;
    const bool krsc = lies_as_krsc(g, call.weight_strides) && aligned(call.weight);
    Buffers b{};
    b.dgrad = make_plan(Pass::dgrad, g, call.mask, call.tf32, device, true, krsc);
    b.wgrad = make_plan(Pass::wgrad, g, call.mask, call.tf32, device, aligned(call.x), krsc);
    const int64_t element = bytes_of(g.dtype), taps = g.r * g.s;
    const int64_t channels = b.wgrad.packing.channels();
    // Both plans pad K alike: one scaled gradient serves both.
    if (!call.is_scaled) {
        if (call.dx || call.dw) b.own_scaled = arena.take(g.n * g.p * g.q * b.dgrad.k_padded * element);
        b.sums = arena.take(scale_gradient_workspace(g));
    }
    b.scaled = call.is_scaled ? call.scaled : b.own_scaled;
    if (call.dx && b.dgrad.fast) {
        const int64_t padded = b.dgrad.packing.start[1];
        if (b.dgrad.pack_filters)
            b.packed_filters =
                arena.take((b.dgrad.transposed_filters ? g.c * b.dgrad.k_padded : g.k * padded) * taps * element);
        if (b.dgrad.splits > 1)
            b.dgrad_partial = arena.take(std::min(g.n, b.dgrad.images_a_launch) * g.h * g.w * g.c * b.dgrad.splits * 4);
    }
    if (call.dw && b.wgrad.fast) {
        if (b.wgrad.pack_input) b.packed_x = arena.take(g.n * g.h * g.w * channels * element);
        b.wgrad_partial = arena.take(wgrad_parts_of(g, b.wgrad) * b.wgrad.splits * g.k * taps * channels * 4);
    }
    return b;
}

// dx = m ? sum over taps of scaled * W : 0. With a mask for each channel the select follows in a pass of its own.
Status run_dgrad(const Backward& call, const Buffers& buffers, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const Plan& plan = buffers.dgrad;
    const int64_t element = bytes_of(g.dtype);
    const Strides out_strides = dense(g.layout, g.c, g.h, g.w);
    if (!plan.fast)
        return generic_dgrad(
            g, call.mask, buffers.scaled, dense(Layout::nhwc, plan.k_padded, g.p, g.q), call.weight, call.weight_strides,
            call.dx, out_strides, stream);
    GemmParams p{};
    const bool per_channel = is_per_channel(call.mask, g.c);
    const Mask own = per_channel ? Mask{} : call.mask;
    p.mask = own;
    p.packing.first[1] = p.packing.start[1] = int(plan.k_padded);  // of the source, which has no blocks
    p.filters = call.weight;
    p.partial = static_cast<float*>(buffers.dgrad_partial);
    p.out_nchw = g.layout == Layout::nchw;
    p.source_h = int(g.p), p.source_w = int(g.q), p.source_channels = int(plan.k_padded);
    p.columns = int(g.c);
    p.filter_channels = int(plan.transposed_filters ? plan.k_padded : plan.packing.start[1]);
    p.filter_rows = int(g.k);
    p.r = int(g.r), p.s = int(g.s), p.dil_h = int(g.dil_h), p.dil_w = int(g.dil_w);
    p.pad_h = int(g.pad_h), p.pad_w = int(g.pad_w), p.stride_h = int(g.stride_h), p.stride_w = int(g.stride_w);
    p.out_h = int(g.h), p.out_w = int(g.w);
    p.patch_h = plan.patch_h, p.patch_w = plan.patch_w;
    p.taps_a_step = plan.taps_a_step;
    p.splits = plan.splits;
    Status status;
    if (plan.pack_filters) {
        status = pack_weight(
            g.dtype, g.k, g.c, g.r, g.s, plan.packing, plan.transposed_filters, plan.k_padded, call.weight,
            call.weight_strides, buffers.packed_filters, stream);
        p.filters = buffers.packed_filters;
    }
    for (int64_t first = 0; status.ok() && first < g.n; first += plan.images_a_launch) {
        const int64_t images = std::min(plan.images_a_launch, g.n - first);
        p.n = int(images);
        p.source = static_cast<const uint8_t*>(buffers.scaled) + first * g.p * g.q * plan.k_padded * element;
        if (own.bytes) p.mask.bytes = own.bytes + first * own.batch_step;
        p.out = static_cast<uint8_t*>(call.dx) + first * g.h * g.w * g.c * element;
        status = gemm_dgrad(plan.math, plan.tile, plan.transposed_filters, p, stream);
        if (status.ok() && p.partial)
            status = finish_splits(
                g.dtype, images, g.c, g.h, g.w, plan.splits, p.partial, nullptr, 1, nullptr, 1, p.mask, p.out,
                out_strides, stream);
    }
    if (status.ok() && per_channel)
        status = apply_mask(g.dtype, g.n, g.c, g.h, g.w, call.mask, call.dx, out_strides, stream);
    return status;
}

// dW = sum over output pixels of scaled * (m ? x : 0): partial sums in fp32, then their sum in order.
Status run_wgrad(const Backward& call, const Buffers& buffers, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const Plan& plan = buffers.wgrad;
    const Strides x_strides = dense(g.layout, g.c, g.h, g.w);
    if (!plan.fast)
        return generic_wgrad(
            g, call.mask, buffers.scaled, dense(Layout::nhwc, plan.k_padded, g.p, g.q), call.x, x_strides, call.dw,
            call.dw_strides, stream);
    const void* x = call.x;
    Status status;
    if (plan.pack_input) {
        status = pack_activation(
            g.dtype, g.n, g.c, g.h, g.w, plan.packing, plan.mask_in_packing ? call.mask : Mask{}, call.x, x_strides,
            buffers.packed_x, stream);
        x = buffers.packed_x;
    }
    if (status.ok())
        status = wgrad_parts(
            g, plan, plan.mask_in_packing ? Mask{} : call.mask, buffers.scaled, x,
            static_cast<float*>(buffers.wgrad_partial), stream);
    if (!status.ok()) return status;
    return reduce_wgrad(
        g.dtype, g.k, g.c, g.r, g.s, plan.packing, wgrad_parts_of(g, plan) * plan.splits,
        static_cast<float*>(buffers.wgrad_partial), call.dw, call.dw_strides, stream);
}

}  // namespace

int64_t backward_workspace(const Backward& call, const Device& device) {
    Arena arena(nullptr);
    cut(call, device, arena);
    return arena.used();
}

Status run_backward(const Backward& call, const Device& device, void* workspace, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    Arena arena(workspace);
    const Buffers buffers = cut(call, device, arena);
    Status status;
    if (!call.is_scaled)
        status = scale_gradient(
            g, call.grad, dense(g.layout, g.k, g.p, g.q), call.ratio, call.ratio_n, call.ratio_groups,
            buffers.dgrad.k_padded, buffers.own_scaled, call.db, buffers.sums, stream);
    if (status.ok() && call.dx) status = run_dgrad(call, buffers, stream);
    if (status.ok() && call.dw) status = run_wgrad(call, buffers, stream);
    return status;
}

}  // namespace pconv::cuda
