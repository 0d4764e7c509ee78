// The plan in words, for `pconv info --plan`: which kernels would run, and what has to be repacked for them.
#pragma once

#include "../cuda/plan/plan.h"

#include <string>

namespace pconv::cuda {

inline std::string kernel_name(Pass pass, const Plan& plan) {
    const char* const passes[] = {"fprop", "dgrad", "wgrad", "upcat"};
    const char* const maths[] = {"bf16", "fp16", "tf32", "fp32"};
    const std::string name = passes[static_cast<int>(pass)];
    if (!plan.fast) return "generic " + name;
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

}  // namespace pconv::cuda
