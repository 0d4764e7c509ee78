// The decoder stage's forward as a sequence of launches: the weight in phases where nobody gave them, then one product.
#include "../upcat/upcat.h"
#include "run_upcat.h"
#include "workspace.h"

#include <algorithm>

namespace pconv::cuda {
namespace {

// What the product does not take (doubles, sizes beyond 32 bits, a batch of nothing) goes the composed way: the doubled
// and concatenated input and its two masks are written out, and the ordinary operator does the rest.
Forward composed(const UpcatForward& stage, const void* joined, const void* joined_mask) {
    const Geometry& g = stage.geometry;
    Forward call{};
    call.geometry = g;
    call.mask = joined_mask_of(stage, joined_mask);
    call.tf32 = stage.tf32;
    call.x = joined;
    call.weight = stage.weight;
    call.weight_strides = stage.weight_strides;
    call.bias = stage.bias;
    call.ratio = stage.ratio;
    call.new_mask = stage.new_mask;
    call.ratio_n = stage.ratio_n, call.ratio_groups = 1;
    call.y = stage.y;
    call.negative_slope = stage.negative_slope;
    return call;
}

struct Buffers {
    Plan plan;
    const void* phases_given;  // nullptr where they cannot be read as they lie
    void *low, *skip, *filters, *phases, *partial;
    void *joined, *joined_mask, *rest;  // the composed way
};

Buffers cut(const UpcatForward& call, const Device& device, Arena& arena) {
    const Geometry& g = call.geometry;
    const int64_t element = bytes_of(g.dtype), small_pixels = g.n * (g.h / 2) * (g.w / 2), pixels = g.n * g.h * g.w;
    Buffers b{};
    const bool whole = call.low_channels * element % 16 == 0 && aligned(call.phases);
    b.phases_given = whole ? call.phases : nullptr;
    const bool krsc = lies_as_krsc(g, call.weight_strides) && aligned(call.weight);
    b.plan = make_upcat_plan(
        g, call.low_channels, b.phases_given != nullptr, call.tf32, device, aligned(call.low), aligned(call.skip),
        krsc);
    const Plan& plan = b.plan;
    if (!plan.fast || g.n == 0) {
        b.joined = arena.take(pixels * g.c * element);
        if (call.low_mask.bytes || call.skip_mask.bytes) b.joined_mask = arena.take(call.ratio_n * 2 * g.h * g.w);
        b.rest = arena.take(forward_workspace(composed(call, b.joined, b.joined_mask), device));
        return b;
    }
    const int64_t low_padded = plan.packing.start[1], skip_padded = plan.packing.start[2] - low_padded;
    if (plan.pack_input) b.low = arena.take(small_pixels * low_padded * element);
    if (plan.pack_skip) b.skip = arena.take(pixels * skip_padded * element);
    // In phases the weight's own taps serve the skip alone.
    if (plan.pack_filters)
        b.filters = arena.take(g.k * 9 * (plan.direct ? low_padded + skip_padded : skip_padded) * element);
    if (!plan.direct && !b.phases_given) b.phases = arena.take(16 * g.k * low_padded * element);
    if (plan.splits > 1)
        b.partial = arena.take(std::min(g.n, plan.images_a_launch) * g.h * g.w * g.k * plan.splits * 4);
    return b;
}

Status run_composed(const UpcatForward& call, const Buffers& buffers, const Device& device, cudaStream_t stream) {
    const Forward whole = composed(call, buffers.joined, buffers.joined_mask);
    const Status status = upcat_join(call, buffers.joined, buffers.joined_mask, stream);
    return status.ok() ? run_forward(whole, device, buffers.rest, stream) : status;
}

UpcatBlock block_of(const Mask& mask, int64_t h, int64_t w, int channels) {
    UpcatBlock block{};
    block.mask = mask.bytes;
    block.mask_step = mask.batch_step;
    block.h = int(h), block.w = int(w), block.channels = channels;
    return block;
}

// The two sources, packed where they have to be.
Status prepare_sources(const UpcatForward& call, const Buffers& buffers, UpcatParams& p, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const int low_padded = p.packing.start[1], skip_padded = p.packing.start[2] - low_padded;
    const int64_t low_channels = call.low_channels, skip_channels = g.c - low_channels, h = g.h / 2, w = g.w / 2;
    UpcatBlock &low = p.blocks[0], &skip = p.blocks[1];
    low = block_of(call.low_mask, h, w, low_padded);
    const bool as_it_lies = buffers.plan.special == Special::last;
    skip = block_of(call.skip_mask, g.h, g.w, as_it_lies ? int(skip_channels) : skip_padded);
    low.source = buffers.low ? buffers.low : call.low;
    skip.source = buffers.skip ? buffers.skip : call.skip;
    Status status;
    if (buffers.low)
        status = pack_activation(
            g.dtype, g.n, low_channels, h, w, packing_of(g.dtype, 0, 0, low_channels), Mask{}, call.low,
            dense(g.layout, low_channels, h, w), buffers.low, stream);
    if (status.ok() && buffers.skip)
        status = pack_activation(
            g.dtype, g.n, skip_channels, g.h, g.w, packing_of(g.dtype, 0, 0, skip_channels), Mask{}, call.skip,
            dense(g.layout, skip_channels, g.h, g.w), buffers.skip, stream);
    return status;
}

Status prepare_filters(const UpcatForward& call, const Buffers& buffers, UpcatParams& p, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const Plan& plan = buffers.plan;
    const int low_padded = plan.packing.start[1], all = plan.packing.start[2], skip_padded = all - low_padded;
    const bool skip_alone = plan.pack_filters && !plan.direct;
    const void* const filters = plan.pack_filters ? buffers.filters : call.weight;
    UpcatBlock &low = p.blocks[0], &skip = p.blocks[1];
    low.filter_channels = plan.direct ? all : low_padded;
    low.filters = plan.direct ? filters : buffers.phases_given ? buffers.phases_given : buffers.phases;
    skip.filter_channels = skip_alone ? skip_padded : all;
    skip.first_channel = skip_alone ? 0 : low_padded;
    skip.filters = filters;
    Status status;
    if (plan.pack_filters)
        status = pack_weight(
            g.dtype, g.k, g.c, 3, 3, skip_alone ? packing_of(g.dtype, call.low_channels, 0, g.c) : plan.packing, false,
            g.k, call.weight, call.weight_strides, buffers.filters, stream);
    if (status.ok() && buffers.phases)
        status = upcat_phases(
            g.dtype, g.k, call.low_channels, low_padded, call.weight, call.weight_strides, buffers.phases, stream);
    return status;
}

Status launch_stage(const UpcatForward& call, const UpcatParams& p, const Plan& plan, cudaStream_t stream) {
    if (plan.special != Special::last) return gemm_upcat(plan.math, plan.tile, p, stream);
    const int64_t first = call.low_channels * call.weight_strides.at[1] * bytes_of(call.geometry.dtype);
    return upcat_last(
        plan.math, p, {p.blocks[1].source, static_cast<const uint8_t*>(call.weight) + first, call.weight_strides},
        stream);
}

// Batches whose offsets do not fit into 32 bits are launched in parts.
Status run_parts(const UpcatForward& call, UpcatParams p, const Plan& plan, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const int64_t element = bytes_of(g.dtype), pixels = g.h * g.w;
    const UpcatParams whole = p;
    for (int64_t first = 0; first < g.n; first += plan.images_a_launch) {
        const int64_t images = std::min(plan.images_a_launch, g.n - first);
        p.n = int(images);
        for (int b = 0; b < 2; ++b) {
            const UpcatBlock& from = whole.blocks[b];
            p.blocks[b].source =
                static_cast<const uint8_t*>(from.source) + first * from.h * from.w * from.channels * element;
            if (from.mask) p.blocks[b].mask = from.mask + first * from.mask_step;
        }
        const int64_t ratio_at = call.ratio_n > 1 ? first * pixels : 0;
        float* const ratio = static_cast<float*>(call.ratio) + ratio_at;
        p.ratio = call.ratio_n == 1 && first > 0 ? nullptr : ratio;  // shared by all images: the first part's
        p.new_mask = call.new_mask + ratio_at;
        p.ratio_n = int(call.ratio_n > 1 ? images : 1);
        p.out = static_cast<uint8_t*>(call.y) + first * pixels * g.k * element;
        Status status = launch_stage(call, p, plan, stream);
        if (status.ok() && p.partial)
            status = finish_splits(
                g.dtype, images, g.k, g.h, g.w, plan.splits, p.partial, ratio, p.ratio_n, call.bias, p.negative_slope,
                Mask{}, p.out, dense(g.layout, g.k, g.h, g.w), stream);
        if (!status.ok()) return status;
    }
    return {};
}

}  // namespace

int64_t upcat_forward_workspace(const UpcatForward& call, const Device& device) {
    Arena arena(nullptr);
    cut(call, device, arena);
    return arena.used();
}

Status run_upcat_forward(const UpcatForward& call, const Device& device, void* workspace, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    Arena arena(workspace);
    const Buffers buffers = cut(call, device, arena);
    const Plan& plan = buffers.plan;
    if (!plan.fast || g.n == 0) return run_composed(call, buffers, device, stream);

    UpcatParams p{};
    p.packing = plan.packing;
    p.bias = call.bias;
    p.negative_slope = float(call.negative_slope);
    p.partial = static_cast<float*>(buffers.partial);
    p.out_nchw = g.layout == Layout::nchw;
    p.columns = int(g.k);
    p.out_h = int(g.h), p.out_w = int(g.w);
    p.full = int(9 * g.c);
    p.patch_h = plan.patch_h, p.patch_w = plan.patch_w;
    p.taps_a_step = 1;
    p.splits = plan.splits;
    p.direct = plan.direct;
    Status status = prepare_sources(call, buffers, p, stream);
    if (status.ok()) status = prepare_filters(call, buffers, p, stream);
    return status.ok() ? run_parts(call, p, plan, stream) : status;
}

}  // namespace pconv::cuda
