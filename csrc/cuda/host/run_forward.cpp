// The forward operator as a sequence of launches: one, where the input is channels_last and its channels come in 16
// bytes.
#include "../edge_layers/edge_layer_kernels.h"
#include "../gemm/gemm.h"
#include "workspace.h"

#include <algorithm>

namespace pconv::cuda {
namespace {

struct Buffers {
    Plan plan;
    void *packed_x, *packed_filters, *partial;
};

Buffers cut(const Forward& call, const Device& device, Arena& arena) {
    const Geometry& g = call.geometry;
    Buffers buffers{};
    buffers.plan = make_plan(
        Pass::fprop, g, call.mask, call.tf32, device, aligned(call.x),
        lies_as_krsc(g, call.weight_strides) && aligned(call.weight));
    const Plan& plan = buffers.plan;
    const int64_t element = bytes_of(g.dtype), channels = plan.packing.channels();
    if (!plan.fast) return buffers;
    if (plan.pack_input) buffers.packed_x = arena.take(g.n * g.h * g.w * channels * element);
    if (plan.pack_filters) buffers.packed_filters = arena.take(g.k * g.r * g.s * channels * element);
    if (plan.splits > 1)
        buffers.partial = arena.take(std::min(g.n, plan.images_a_launch) * g.p * g.q * g.k * plan.splits * 4);
    return buffers;
}

GemmParams parameters(const Forward& call, const Plan& plan) {
    const Geometry& g = call.geometry;
    GemmParams p{};
    if (!plan.mask_in_packing) p.mask = call.mask;
    p.packing = plan.packing;
    p.bias = call.bias;
    p.negative_slope = float(call.negative_slope);
    p.out_nchw = g.layout == Layout::nchw;
    p.source_h = int(g.h), p.source_w = int(g.w);
    p.source_channels = p.filter_channels = plan.packing.channels();
    if (plan.special == Special::first) p.source_channels = int(g.c);
    p.columns = p.filter_rows = int(g.k);
    p.r = int(g.r), p.s = int(g.s), p.dil_h = int(g.dil_h), p.dil_w = int(g.dil_w);
    p.pad_h = int(g.pad_h), p.pad_w = int(g.pad_w), p.stride_h = int(g.stride_h), p.stride_w = int(g.stride_w);
    p.out_h = int(g.p), p.out_w = int(g.q);
    p.full = int(g.c * g.r * g.s);
    p.ratio_n = int(call.ratio_n);
    p.patch_h = plan.patch_h, p.patch_w = plan.patch_w;
    p.taps_a_step = plan.taps_a_step;
    p.splits = plan.splits;
    return p;
}

Status run_generic(const Forward& call, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const Status status = window_ratio(g, call.mask, call.ratio, call.new_mask, call.ratio_n, call.ratio_groups, stream);
    if (!status.ok()) return status;
    return generic_fprop(
        g, call.mask, call.x, dense(g.layout, g.c, g.h, g.w), call.weight, call.weight_strides, call.bias, call.ratio,
        call.ratio_n, call.ratio_groups, call.negative_slope, call.y, dense(g.layout, g.k, g.p, g.q), stream);
}

Status launch_fprop(const Forward& call, const Plan& plan, const GemmParams& p, cudaStream_t stream) {
    switch (plan.special) {
        case Special::first: return first_layer(plan.math, p, call.weight_strides, plan.special_blocks, stream);
        case Special::last: return last_layer(plan.math, p, stream);
        case Special::none: break;
    }
    return gemm_fprop(plan.math, plan.tile, p, stream);
}

// Batches whose offsets do not fit into 32 bits are launched in parts.
Status run_parts(const Forward& call, GemmParams p, const Plan& plan, const void* x, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const int64_t element = bytes_of(g.dtype), pixels = g.p * g.q;
    const Mask whole = p.mask;
    for (int64_t first = 0; first < g.n; first += plan.images_a_launch) {
        const int64_t images = std::min(plan.images_a_launch, g.n - first);
        p.n = int(images);
        p.source = static_cast<const uint8_t*>(x) + first * g.h * g.w * p.source_channels * element;
        if (whole.bytes) p.mask.bytes = whole.bytes + first * whole.batch_step;
        const int64_t ratio_at = call.ratio_n > 1 ? first * pixels : 0;
        float* const ratio = static_cast<float*>(call.ratio) + ratio_at;
        if (p.ratio_in) p.ratio_in = ratio;
        // A ratio that all images share is written by the first part.
        p.ratio = p.ratio_in || (call.ratio_n == 1 && first > 0) ? nullptr : ratio;
        p.new_mask = call.new_mask + ratio_at;
        p.ratio_n = int(call.ratio_n > 1 ? images : 1);
        p.out = static_cast<uint8_t*>(call.y) + first * pixels * g.k * element;
        Status status = launch_fprop(call, plan, p, stream);
        if (status.ok() && p.partial)
            status = finish_splits(
                g.dtype, images, g.k, g.p, g.q, plan.splits, p.partial, ratio, p.ratio_n, call.bias, p.negative_slope,
                Mask{}, p.out, dense(g.layout, g.k, g.p, g.q), stream);
        if (!status.ok()) return status;
    }
    return {};
}

}  // namespace

int64_t forward_workspace(const Forward& call, const Device& device) {
    Arena arena(nullptr);
    cut(call, device, arena);
    return arena.used();
}

Status run_forward(const Forward& call, const Device& device, void* workspace, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    Arena arena(workspace);
    const Buffers buffers = cut(call, device, arena);
    const Plan& plan = buffers.plan;
    // Without images a mask of batch 1 still has its ratio and new mask.
    if (!plan.fast || g.n == 0) return run_generic(call, stream);

    GemmParams p = parameters(call, plan);
    Status status;
    const void* x = call.x;
    p.filters = call.weight;
    if (plan.pack_input) {
        status = pack_activation(
            g.dtype, g.n, g.c, g.h, g.w, plan.packing, plan.mask_in_packing ? call.mask : Mask{}, call.x,
            dense(g.layout, g.c, g.h, g.w), buffers.packed_x, stream);
        x = buffers.packed_x;
    }
    if (status.ok() && plan.pack_filters) {
        status = pack_weight(
            g.dtype, g.k, g.c, g.r, g.s, plan.packing, false, g.k, call.weight, call.weight_strides,
            buffers.packed_filters, stream);
        p.filters = buffers.packed_filters;
    }
    if (status.ok() && plan.mask_in_packing) {
        status = window_ratio(g, call.mask, call.ratio, call.new_mask, call.ratio_n, call.ratio_groups, stream);
        p.ratio_in = static_cast<const float*>(call.ratio);
    }
    p.partial = static_cast<float*>(buffers.partial);
    return status.ok() ? run_parts(call, p, plan, x, stream) : status;
}

}  // namespace pconv::cuda
