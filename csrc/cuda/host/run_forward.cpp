// The forward operator as a sequence of launches: one, where the input is channels_last and its channels come in 16
// bytes. A decoder stage has the weight in phases made first, unless they are given.
#include "../edge_layers/edge_layer_kernels.h"
#include "../upcat/upcat.h"
#include "parts.h"

namespace pconv::cuda {
namespace {

// Packed copies, nullptr where a tensor is read as it lies.
struct Buffers {
    Plan plan;
    const void* phases_given;  // decoder stage: nullptr where they cannot be read as they lie
    void *x, *skip, *filters, *phases, *partial;
};

Buffers allocate_stage(const Forward& call, const Device& device, Workspace& workspace) {
    const Geometry& g = call.geometry;
    const int64_t element = bytes_of(g.dtype), small_pixels = g.n * (g.h / 2) * (g.w / 2), pixels = g.n * g.h * g.w;
    Buffers b{};
    const bool whole = call.low_channels * element % 16 == 0 && aligned(call.phases);
    b.phases_given = whole ? call.phases : nullptr;
    b.plan = make_upcat_plan(
        g, call.low_channels, b.phases_given != nullptr, call.tf32, device, aligned(call.x), aligned(call.skip),
        lies_as_krsc(call));
    const Plan& plan = b.plan;
    if (!plan.fast) return b;
    const int64_t low_padded = plan.packing.start[1], skip_padded = plan.packing.channels() - low_padded;
    if (plan.pack_input) b.x = workspace.take(small_pixels * low_padded * element);
    if (plan.pack_skip) b.skip = workspace.take(pixels * skip_padded * element);
    // In phases the weight's own taps serve the skip alone.
    if (plan.pack_filters)
        b.filters = workspace.take(g.k * 9 * (plan.direct ? low_padded + skip_padded : skip_padded) * element);
    if (!plan.direct && !b.phases_given) b.phases = workspace.take(16 * g.k * low_padded * element);
    b.partial = workspace.take(partial_bytes(plan, g.n, g.h, g.w, g.k));
    return b;
}

Buffers allocate_workspace(const Forward& call, const Device& device, Workspace& workspace) {
    if (call.low_channels > 0) return allocate_stage(call, device, workspace);
    const Geometry& g = call.geometry;
    Buffers b{};
    b.plan = make_plan(Pass::fprop, g, call.mask, call.tf32, device, aligned(call.x), lies_as_krsc(call));
    const Plan& plan = b.plan;
    const int64_t element = bytes_of(g.dtype), channels = plan.packing.channels();
    if (!plan.fast) return b;
    if (plan.pack_input) b.x = workspace.take(g.n * g.h * g.w * channels * element);
    if (plan.pack_filters) b.filters = workspace.take(g.k * g.r * g.s * channels * element);
    b.partial = workspace.take(partial_bytes(plan, g.n, g.p, g.q, g.k));
    return b;
}

void describe_product(const Forward& call, const Buffers& b, ProductParams& p) {
    const Geometry& g = call.geometry;
    Output& output = p.output;
    output.bias = call.bias;
    output.negative_slope = float(call.negative_slope);
    output.ratio = static_cast<float*>(call.ratio);
    output.new_mask = call.new_mask;
    output.out = call.y;
    output.partial = static_cast<float*>(b.partial);
    output.nchw = g.layout == Layout::nchw;
    output.n = int(g.n), output.h = int(g.p), output.w = int(g.q), output.columns = int(g.k);
    output.ratio_n = int(call.ratio_n);
    output.full = int(g.c * g.r * g.s);
    p.tiling = tiling_of(b.plan);
    p.packing = b.plan.packing;
}

// ---- one source

Status launch_fprop(const Forward& call, const Plan& plan, const GemmParams& p, cudaStream_t stream) {
    switch (plan.special) {
        case Special::first: return first_layer(plan.math, p, call.weight_strides, plan.special_blocks, stream);
        case Special::last: return last_layer(plan.math, p, stream);
        case Special::none: break;
    }
    return gemm_fprop(plan.math, plan.tile, p, stream);
}

Status run_layer(const Forward& call, const Buffers& b, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const Plan& plan = b.plan;
    GemmParams p{};
    describe_product(call, b, p);
    p.source = b.x ? b.x : call.x;
    p.filters = b.filters ? b.filters : call.weight;
    p.window = window_of(g);
    p.source_h = int(g.h), p.source_w = int(g.w);
    p.source_channels = p.filter_channels = plan.packing.channels();
    if (plan.special == Special::first) p.source_channels = int(g.c);
    p.filter_rows = int(g.k);
    Status status;
    if (b.x)
        status = pack_activation(
            g.dtype, g.n, g.c, g.h, g.w, plan.packing, plan.mask_in_packing ? call.mask : Mask{}, call.x,
            dense(g.layout, g.c, g.h, g.w), b.x, stream);
    if (status.ok() && b.filters)
        status = pack_weight(
            g.dtype, g.k, g.c, g.r, g.s, plan.packing, false, g.k, call.weight, call.weight_strides, b.filters, stream);
    if (!plan.mask_in_packing) {
        p.mask = call.mask;
    } else if (status.ok()) {
        status = window_ratio({g, call.mask, call.ratio, call.new_mask, call.ratio_n, call.ratio_groups}, stream);
        p.output.ratio_in = p.output.ratio, p.output.ratio = nullptr;
    }
    if (!status.ok()) return status;
    return run_gemm_parts(p, plan, g.dtype, false, stream, [&](const GemmParams& part) {
        return launch_fprop(call, plan, part, stream);
    });
}

// ---- two sources

UpcatBlock block_of(const void* source, const Mask& mask, int64_t h, int64_t w, int64_t channels) {
    UpcatBlock block{};
    block.source = source;
    block.mask = mask;
    block.h = int(h), block.w = int(w), block.channels = int(channels);
    return block;
}

// The two sources, packed where they have to be.
Status prepare_sources(const Forward& call, const Buffers& b, UpcatParams& p, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const int64_t low_channels = call.low_channels, skip_channels = g.c - low_channels, h = g.h / 2, w = g.w / 2;
    const int64_t low_padded = p.packing.start[1], skip_padded = p.packing.channels() - low_padded;
    const bool as_it_lies = b.plan.special == Special::last;
    p.blocks[0] = block_of(b.x ? b.x : call.x, call.mask, h, w, low_padded);
    p.blocks[1] =
        block_of(b.skip ? b.skip : call.skip, call.skip_mask, g.h, g.w, as_it_lies ? skip_channels : skip_padded);
    Status status;
    if (b.x)
        status = pack_activation(
            g.dtype, g.n, low_channels, h, w, packing_of(g.dtype, 0, 0, low_channels), Mask{}, call.x,
            dense(g.layout, low_channels, h, w), b.x, stream);
    if (status.ok() && b.skip)
        status = pack_activation(
            g.dtype, g.n, skip_channels, g.h, g.w, packing_of(g.dtype, 0, 0, skip_channels), Mask{}, call.skip,
            dense(g.layout, skip_channels, g.h, g.w), b.skip, stream);
    return status;
}

Status prepare_filters(const Forward& call, const Buffers& b, UpcatParams& p, cudaStream_t stream) {
    const Geometry& g = call.geometry;
    const Plan& plan = b.plan;
    const int low_padded = plan.packing.start[1], all = plan.packing.channels(), skip_padded = all - low_padded;
    const bool skip_alone = plan.pack_filters && !plan.direct;
    const void* const filters = plan.pack_filters ? b.filters : call.weight;
    UpcatBlock &low = p.blocks[0], &skip = p.blocks[1];
    low.filter_channels = plan.direct ? all : low_padded;
    low.filters = plan.direct ? filters : b.phases_given ? b.phases_given : b.phases;
    skip.filter_channels = skip_alone ? skip_padded : all;
    skip.first_channel = skip_alone ? 0 : low_padded;
    skip.filters = filters;
    Status status;
    if (plan.pack_filters)
        status = pack_weight(
            g.dtype, g.k, g.c, 3, 3, skip_alone ? packing_of(g.dtype, call.low_channels, 0, g.c) : plan.packing, false,
            g.k, call.weight, call.weight_strides, b.filters, stream);
    if (status.ok() && b.phases)
        status = upcat_phases(
            g.dtype, g.k, call.low_channels, low_padded, call.weight, call.weight_strides, b.phases, stream);
    return status;
}

Status launch_stage(const Forward& call, const UpcatParams& p, const Plan& plan, cudaStream_t stream) {
    if (plan.special != Special::last) return gemm_upcat(plan.math, plan.tile, p, stream);
    const void* const weight =
        from_image(call.weight, call.low_channels, call.weight_strides.at[1], call.geometry.dtype);
    return upcat_last(plan.math, p, {p.blocks[1].source, weight, call.weight_strides}, stream);
}

Status run_stage(const Forward& call, const Buffers& b, cudaStream_t stream) {
    const DType dtype = call.geometry.dtype;
    UpcatParams whole{};
    describe_product(call, b, whole);
    whole.direct = b.plan.direct;
    Status status = prepare_sources(call, b, whole, stream);
    if (status.ok()) status = prepare_filters(call, b, whole, stream);
    if (!status.ok()) return status;
    UpcatParams p = whole;
    return run_parts(whole.output, b.plan, dtype, Mask{}, stream, [&](int64_t first, const Output& part) {
        p.output = part;
        for (int i = 0; i < 2; ++i) {
            const UpcatBlock& from = whole.blocks[i];
            p.blocks[i].source = from_image(from.source, first, int64_t(from.h) * from.w * from.channels, dtype);
            p.blocks[i].mask = from_image(from.mask, first);
        }
        return launch_stage(call, p, b.plan, stream);
    });
}

}  // namespace

int64_t forward_workspace(const Forward& call, const Device& device) {
    Workspace workspace(nullptr);
    allocate_workspace(call, device, workspace);
    return workspace.used();
}

Kernels kernels_of(const Forward& call, const Device& device) {
    Workspace workspace(nullptr);
    const Plan plan = allocate_workspace(call, device, workspace).plan;
    Kernels found;
    if (call.geometry.n == 0 || !plan.fast) return found;
    if (call.low_channels == 0) {
        add_product(plan, 0, found);
    } else if (plan.special == Special::last) {
        found.families = family::last_stage;
    } else {
        found.families = is_tall(plan.tile) ? family::tall : is_wgmma(plan.tile) ? family::stage_wgmma : family::stage;
        found.tiles[0] = static_cast<signed char>(plan.tile);
        found.splits[0] = plan.splits;
    }
    return found;
}

Status run_forward(const Forward& call, const Device& device, void* memory, cudaStream_t stream) {
    Workspace workspace(memory);
    const Buffers buffers = allocate_workspace(call, device, workspace);
    if (!buffers.plan.fast) return {cudaErrorNotSupported, "forward"};
    return call.low_channels > 0 ? run_stage(call, buffers, stream) : run_layer(call, buffers, stream);
}

}  // namespace pconv::cuda
