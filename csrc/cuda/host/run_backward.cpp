// The backward operator as a sequence of launches: ratio * gradient and the bias gradient in one pass, then dgrad and
// wgrad of one source. run_stage_backward.cpp has the decoder stage.
#include "parts.h"

namespace pconv::cuda {
namespace {

struct Buffers {
    Plan dgrad, wgrad;
    const void* scaled;
    void *own_scaled, *sums, *packed_x, *packed_filters, *dgrad_partial, *wgrad_partial;
};

Buffers allocate_workspace(const Backward& call, const Device& device, Workspace& workspace) {
    const Geometry& g = call.geometry;
    const bool krsc = lies_as_krsc(call);
    Buffers b{};
    b.dgrad = make_plan(Pass::dgrad, g, call.mask, call.tf32, device, true, krsc);
    b.wgrad = make_plan(Pass::wgrad, g, call.mask, call.tf32, device, aligned(call.x), krsc);
    const int64_t element = bytes_of(g.dtype), taps = g.r * g.s, channels = b.wgrad.packing.channels();
    // Both plans pad K alike: one scaled gradient serves both.
    if (!call.is_scaled) {
        if (call.dx || call.dw) b.own_scaled = workspace.take(g.n * g.p * g.q * b.dgrad.k_padded * element);
        b.sums = workspace.take(scale_gradient_workspace(g));
    }
    b.scaled = call.is_scaled ? call.scaled : b.own_scaled;
    if (call.dx && b.dgrad.fast) {
        const int64_t padded = b.dgrad.packing.channels();
        if (b.dgrad.pack_filters)
            b.packed_filters =
                workspace.take((b.dgrad.transposed_filters ? g.c * b.dgrad.k_padded : g.k * padded) * taps * element);
        b.dgrad_partial = workspace.take(partial_bytes(b.dgrad, g.n, g.h, g.w, g.c));
    }
    if (call.dw && b.wgrad.fast) {
        if (b.wgrad.pack_input) b.packed_x = workspace.take(g.n * g.h * g.w * channels * element);
        b.wgrad_partial = workspace.take(parts_of(g.n, b.wgrad) * b.wgrad.splits * g.k * taps * channels * 4);
    }
    return b;
}

// dx = m ? sum over taps of scaled * W : 0. With a mask for each channel the select follows in a pass of its own.
Status run_dgrad(const Backward& call, const Buffers& buffers, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const Plan& plan = buffers.dgrad;
    const bool per_channel = is_per_channel(call.mask, g.c);
    GemmParams p{};
    p.output.out = call.dx;
    p.output.partial = static_cast<float*>(buffers.dgrad_partial);
    p.output.nchw = g.layout == Layout::nchw;
    p.output.n = int(g.n), p.output.h = int(g.h), p.output.w = int(g.w), p.output.columns = int(g.c);
    p.output.ratio_n = 1;
    p.tiling = tiling_of(plan);
    p.packing.first[1] = p.packing.start[1] = int(plan.k_padded);  // of the source, which has no blocks
    if (!per_channel) p.mask = call.mask;
    p.output.second_block = p.mask.blocks == 2 ? p.mask.second : int(g.c);
    p.source = buffers.scaled;
    p.source_h = int(g.p), p.source_w = int(g.q), p.source_channels = int(plan.k_padded);
    p.filters = plan.pack_filters ? buffers.packed_filters : call.weight;
    p.filter_channels = int(plan.transposed_filters ? plan.k_padded : plan.packing.channels());
    p.filter_rows = int(g.k);
    p.window = window_of(g);
    Status status;
    if (plan.pack_filters)
        status = pack_weight(
            g.dtype, g.k, g.c, g.r, g.s, plan.packing, plan.transposed_filters, plan.k_padded, call.weight,
            call.weight_strides, buffers.packed_filters, stream);
    if (status.ok())
        status = run_gemm_parts(p, plan, g.dtype, true, stream, [&](const GemmParams& part) {
            return gemm_dgrad(plan.math, plan.tile, plan.transposed_filters, part, stream);
        });
    if (status.ok() && per_channel) status = masked_copy({g, call.mask, call.dx, call.dx}, stream);
    return status;
}

// dW = sum over output pixels of scaled * (m ? x : 0): partial sums in fp32, then their sum in order.
Status run_wgrad(const Backward& call, const Buffers& buffers, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const Plan& plan = buffers.wgrad;
    const Strides x_strides = dense(g.layout, g.c, g.h, g.w);
    auto* const partial = static_cast<float*>(buffers.wgrad_partial);
    int64_t sums = 0;
    Status status;
    if (plan.pack_input)
        status = pack_activation(
            g.dtype, g.n, g.c, g.h, g.w, plan.packing, plan.mask_in_packing ? call.mask : Mask{}, call.x, x_strides,
            buffers.packed_x, stream);
    if (status.ok())
        status = run_wgrad_parts(
            g, plan, plan.mask_in_packing ? Mask{} : call.mask, buffers.scaled,
            plan.pack_input ? buffers.packed_x : call.x, partial, sums, stream);
    if (!status.ok()) return status;
    return reduce_wgrad(g.dtype, g.k, g.c, g.r, g.s, plan.packing, sums, partial, call.dw, call.dw_strides, stream);
}

}  // namespace

int64_t backward_workspace(const Backward& call, const Device& device) {
    if (call.low_channels > 0) return stage_backward_workspace(call, device);
    Workspace workspace(nullptr);
    allocate_workspace(call, device, workspace);
    return workspace.used();
}

Kernels kernels_of(const Backward& call, const Device& device) {
    if (call.low_channels > 0) return stage_kernels_of(call, device);
    Workspace workspace(nullptr);
    const Buffers b = allocate_workspace(call, device, workspace);
    Kernels found;
    if ((call.dx && !b.dgrad.fast) || (call.dw && !b.wgrad.fast)) return found;
    if (call.dx) add_product(b.dgrad, 0, found);
    if (call.dw) add_product(b.wgrad, 1, found);
    if (!found.families) found.families = family::gemm;  // the bias alone
    return found;
}

Status run_backward(const Backward& call, const Device& device, void* memory, cudaStream_t stream) {
    if (call.low_channels > 0) return run_stage_backward(call, device, memory, stream);
    const Geometry& g = call.geometry;
    Workspace workspace(memory);
    const Buffers buffers = allocate_workspace(call, device, workspace);
    if (!kernels_of(call, device).families) return {cudaErrorNotSupported, "backward"};
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
