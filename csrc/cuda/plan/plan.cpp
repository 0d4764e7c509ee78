#include "plan.h"

#include "edge_layers.h"
#include "tile_choice.h"

#include <algorithm>

namespace pconv::cuda {
namespace {

MathId math_of(DType dtype, bool tf32) {
    if (dtype == DType::bf16) return MathId::bf16;
    if (dtype == DType::f16) return MathId::f16;
    return tf32 ? MathId::tf32 : MathId::ieee;
}

Extent extent_of(Pass pass, const Geometry& g) {
    if (pass == Pass::fprop) return {g.p, g.q, 1, g.k, g.c};
    return {div_up(g.h, g.stride_h), div_up(g.w, g.stride_w), g.stride_h * g.stride_w, g.c, g.k};
}

Plan composed(Plan plan, const char* reason) {
    plan.reason = reason;
    return plan;
}

}  // namespace

Plan make_plan(
    Pass pass, const Geometry& g, const Mask& mask, bool tf32, const Device& device, bool input_aligned,
    bool filters_krsc) {
    Plan plan;
    const int64_t chunk = 16 / bytes_of(g.dtype), taps = g.r * g.s;
    plan.k_padded = round_up(g.k, chunk);
    if (g.dtype == DType::f64) return composed(plan, "no fused kernels for float64");
    if (g.groups > 1) return composed(plan, "no fused kernels for groups");
    if (taps > max_taps) return composed(plan, "no fused kernels for windows of more than 64 taps");
    if (g.stride_h * g.stride_w > 1024) return composed(plan, "no fused kernels for strides of more than 1024 classes");
    plan.math = math_of(g.dtype, tf32);

    // dgrad's filters and masks that are applied while packing have no blocks.
    plan.mask_in_packing = is_per_channel(mask, g.c) || mask.blocks * taps > max_taps;
    const bool two_blocks = mask.blocks == 2 && !plan.mask_in_packing && pass != Pass::dgrad;
    plan.packing = packing_of(g.dtype, 0, two_blocks ? mask.second : 0, g.c);
    const int64_t start = plan.packing.channels();
    const bool padded = start != g.c;
    plan.pack_input = g.layout == Layout::nchw || padded || !input_aligned || plan.mask_in_packing;
    plan.pack_filters = padded || !filters_krsc;

    // Offsets of the fast kernels are 32-bit. A tap may look beyond the last image, so there is a margin of rows.
    const int64_t margin = (g.r * g.dil_h + g.pad_h + 1) * (g.w + g.pad_w + g.s * g.dil_w);
    const int64_t image = std::max((g.h * g.w + margin) * start, g.p * g.q * plan.k_padded);
    const int64_t filters = std::max(g.k, plan.k_padded) * taps * start;
    if (image > device.max_elements || filters > device.max_elements)
        return composed(plan, "an image or the filters have 2^31 or more elements");
    // wgrad numbers a launch's pixels, a step past the end included, in 32 bits too; images that are left over go
    // to the next launch.
    plan.images_per_launch = std::clamp<int64_t>(device.max_elements / image, 1, std::max<int64_t>(g.n, 1));

    const bool on_tensor_cores = pass == Pass::fprop && plan.math != MathId::ieee && !plan.mask_in_packing;
    if (on_tensor_cores && fits_first_layer(g, mask.blocks == 1)) {
        plan.special = Special::first;
        plan.special_blocks = 2 * device.multiprocessors;  // as many as are resident
        plan.pack_input = plan.pack_filters = false;       // it reads both as they lie
        plan.fast = true;
        return plan;
    }

    const int64_t reduction = pass == Pass::dgrad ? plan.k_padded : start;
    if (plan.packing.blocks == 1 && pass != Pass::wgrad && reduction / chunk <= 4) {
        const int64_t chunks = reduction / chunk;
        plan.taps_per_step = chunks == 1 ? 8 : chunks == 2 ? 4 : 2;
    }
    if (pass == Pass::dgrad) {
        plan.transposed_filters = g.dtype == DType::f32 || plan.taps_per_step > 1;
        if (plan.transposed_filters) plan.pack_filters = true;
    }
    plan.fast = true;
    if (pass == Pass::wgrad)
        choose_wgrad_tile(plan, g, device, chunk);
    else {
        const Extent e = extent_of(pass, g);
        const int64_t steps = div_up(taps, e.classes * plan.taps_per_step) * div_up(reduction, 8 * chunk);
        choose_gemm_tile(plan, pass, e, g.n, device, steps);
    }
    // Where few pixels meet many channels the general kernel's shared reduction fills the device, and nothing else
    // does.
    const bool enough_pixels = div_up(g.n * g.p * g.q, 128) >= device.multiprocessors;
    if (on_tensor_cores && (plan.splits == 1 || enough_pixels) && fits_last_layer(g)) {
        plan.special = Special::last;
        plan.splits = 1;
    }
    return plan;
}

Plan make_upcat_plan(
    const Geometry& g, int64_t low_channels, bool phases_given, bool tf32, const Device& device, bool low_aligned,
    bool skip_aligned, bool filters_krsc) {
    Plan plan;
    if (g.dtype == DType::f64) return composed(plan, "no fused kernels for float64");
    plan.math = math_of(g.dtype, tf32);
    const int64_t chunk = 16 / bytes_of(g.dtype), skip_channels = g.c - low_channels, small_h = g.h / 2,
                  small_w = g.w / 2;
    plan.packing = packing_of(g.dtype, 0, low_channels, g.c);
    const int64_t low_padded = plan.packing.start[1], skip_padded = plan.packing.channels() - low_padded;
    const bool nchw = g.layout == Layout::nchw;
    plan.pack_input = nchw || low_padded != low_channels || !low_aligned;
    plan.pack_skip = nchw || skip_padded != skip_channels || !skip_aligned;
    plan.pack_filters = plan.packing.channels() != g.c || low_padded != low_channels || !filters_krsc;

    // As above: 32-bit offsets, and taps that look beyond the last image.
    const int64_t margin = 5 * (g.w + 4);
    const int64_t image =
        std::max({(small_h * small_w + margin) * low_padded, (g.h * g.w + margin) * skip_padded, g.h * g.w * g.k});
    if (image > device.max_elements || g.k * 9 * plan.packing.channels() > device.max_elements)
        return composed(plan, "an image or the filters have 2^31 or more elements");
    plan.images_per_launch = std::clamp<int64_t>(device.max_elements / image, 1, std::max<int64_t>(g.n, 1));
    plan.fast = true;
    if (plan.math != MathId::ieee && fits_upcat_last(g, low_channels)) {
        plan.special = Special::last;  // it reads the skip and its filters as they lie
        plan.pack_skip = plan.pack_filters = false;
        return plan;
    }
    plan.direct = prefers_direct(plan.math, device.flops_per_byte, g.n * g.h * g.w, phases_given);
    const int64_t steps = (plan.direct ? 9 : 4) * div_up(low_padded, 8 * chunk) + 9 * div_up(skip_padded, 8 * chunk);
    const Extent e = plan.direct ? Extent{g.h, g.w, 1, g.k, g.c} : Extent{small_h, small_w, 4, g.k, g.c};
    choose_gemm_tile(plan, Pass::upcat, e, g.n, device, steps);
    return plan;
}

UpcatBackwardPlan make_upcat_backward_plan(const Geometry& g, int64_t low_channels, bool tf32, const Device& device) {
    UpcatBackwardPlan plan{};
    plan.k_padded = round_up(g.k, 16 / bytes_of(g.dtype));
    Geometry& low = plan.low_convolution = g;
    low.c = plan.k_padded, low.k = low_channels;  // its input is the scaled gradient, packed
    low.r = low.s = 4;
    low.stride_h = low.stride_w = 2;
    low.p = g.h / 2, low.q = g.w / 2;
    low.layout = Layout::nhwc;
    plan.fprop = make_plan(Pass::fprop, low, Mask{}, tf32, device, true, true);
    plan.fprop.special = Special::none;  // it is always launched as the general product
    plan.wgrad = make_plan(Pass::wgrad, low, Mask{}, tf32, device, true, true);
    // Where weights weigh more than pixels the joined tensors are small, and 9 taps are fewer than 16.
    plan.materialised = g.n == 0 || !plan.fprop.fast || !plan.wgrad.fast ||
                        prefers_direct(plan.fprop.math, device.flops_per_byte, g.n * g.h * g.w, false);
    return plan;
}

}  // namespace pconv::cuda
