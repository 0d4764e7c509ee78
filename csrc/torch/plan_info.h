// The plan as text, for `pconv info --plan`: which kernels would run, and what has to be repacked for them.
#pragma once

#include "../cuda/plan/plan.h"

#include <string>

namespace pconv::cuda {

inline std::string kernel_name(Pass pass, const Plan& plan) {
    const char* const passes[] = {"fprop", "dgrad", "wgrad", "upcat"};
    const char* const maths[] = {"bf16", "fp16", "tf32", "fp32"};
    const std::string name = passes[static_cast<int>(pass)];
    if (!plan.fast) return name + " by the library";
    const std::string math = std::string(" ") + maths[static_cast<int>(plan.math)];
    if (plan.special == Special::first) return "first layer" + math;
    if (plan.special == Special::last) return "last layer" + math;
    return name + " " + tile_shapes[static_cast<int>(plan.tile)].name + math;
}

inline std::string notes_of(Pass pass, const Plan& plan) {
    if (!plan.fast) return plan.reason;
    std::string notes;
    const auto add = [&](bool holds, const std::string& text) {
        if (holds) notes += (notes.empty() ? "" : ", ") + text;
    };
    add(pass == Pass::upcat, plan.direct ? "the weight's own taps" : "weight in phases");
    add(plan.special == Special::none && plan.splits > 1,
        "reduction in " + std::to_string(plan.splits) + " parts, added in order");
    add(plan.patch_w > 0,
        "patches of " + std::to_string(plan.patch_h) + "x" + std::to_string(plan.patch_w) + " pixels");
    add(plan.taps_per_step > 1, std::to_string(plan.taps_per_step) + " taps a step");
    add(plan.pack_input && pass != Pass::dgrad, plan.mask_in_packing ? "input masked and repacked" : "input repacked");
    add(plan.pack_skip, "skip repacked");
    add(plan.pack_filters && pass != Pass::wgrad, plan.transposed_filters ? "filters transposed" : "filters repacked");
    return notes;
}

// The grid of the pass' main launch, as its launcher works it out (gemm_grid, launch_wgrad, ...); {0, 0, 0} where this
// depends on the device's occupancy or the kernel is a generic one. g: the layer's geometry, of a stage at full
// resolution.
struct Grid {
    int64_t x = 0, y = 0, z = 0;
};

inline Grid grid_of(Pass pass, const Plan& plan, const Geometry& g) {
    const auto div_up = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    const TileShape& tile = tile_shapes[static_cast<int>(plan.tile)];
    if (!plan.fast) return {};
    if (plan.special == Special::first) return {plan.special_blocks, 1, 1};
    if (plan.special == Special::last) return {};
    if (pass == Pass::wgrad) {
        const int64_t columns = g.r * g.s * plan.packing.channels();
        return {div_up(columns, tile.columns), div_up(g.k, tile.rows), plan.splits};
    }
    const bool phases = pass == Pass::upcat && !plan.direct;
    const int64_t step_h = pass == Pass::dgrad ? g.stride_h
                           : phases            ? 2
                                               : 1,
                  step_w = pass == Pass::dgrad ? g.stride_w
                           : phases            ? 2
                                               : 1;
    const int64_t h = pass == Pass::dgrad ? g.h : g.p, w = pass == Pass::dgrad ? g.w : g.q;
    const int64_t grid_h = div_up(h, step_h), grid_w = div_up(w, step_w);
    const int64_t tiles = plan.patch_w > 0 ? g.n * div_up(grid_h, plan.patch_h) * div_up(grid_w, plan.patch_w)
                                           : div_up(g.n * grid_h * grid_w, tile.rows);
    const int64_t channels = pass == Pass::dgrad ? g.c : g.k, classes = step_h * step_w;
    return {
        phases ? classes * tiles : tiles, div_up(channels, tile.columns),
        (pass == Pass::dgrad ? classes : 1) * plan.splits};
}

}  // namespace pconv::cuda
