// plan() and plan_upcat() of pconv_cuda._C, for `pconv info --plan`: which CUDA kernels a layer or a decoder stage
// would run on. The plans are those that the operators make, worked out without a device.
#include "plan_info.h"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace {

using namespace pconv::cuda;

struct Sizes {
    int64_t n, c, h, w, k;
};

pconv::DType dtype_from(const std::string& name) {
    const std::pair<const char*, pconv::DType> names[] = {
        {"float64", pconv::DType::f64},
        {"float32", pconv::DType::f32},
        {"bfloat16", pconv::DType::bf16},
        {"float16", pconv::DType::f16}};
    for (const auto& [known, dtype] : names)
        if (name == known) return dtype;
    throw std::invalid_argument("dtype: expected float64, float32, bfloat16 or float16, got " + name);
}

// With "same" padding.
pconv::Geometry geometry(
    const Sizes& sizes, int64_t r, int64_t s, int64_t stride, const std::string& dtype, bool channels_last) {
    pconv::Geometry g{};
    g.n = sizes.n, g.c = sizes.c, g.h = sizes.h, g.w = sizes.w, g.k = sizes.k, g.r = r, g.s = s;
    g.stride_h = g.stride_w = stride;
    g.pad_h = r / 2, g.pad_w = s / 2;
    g.dil_h = g.dil_w = g.groups = 1;
    g.p = pconv::output_size(g.h, r, stride, g.pad_h, 1);
    g.q = pconv::output_size(g.w, s, stride, g.pad_w, 1);
    g.layout = channels_last ? pconv::Layout::nhwc : pconv::Layout::nchw;
    g.dtype = dtype_from(dtype);
    return g;
}

Device device_from(int arch, int multiprocessors, int64_t shared_bytes, bool wgmma) {
    Device device;
    device.arch = arch, device.multiprocessors = multiprocessors, device.shared_bytes = shared_bytes;
    device.wgmma = wgmma && arch == 90;
    return device;
}

// A mask of one channel, of two that stand for so many of the input's, or of one for each.
pconv::Mask mask_from(const std::vector<int64_t>& mask_channels, int64_t c) {
    int64_t sum = 0;
    for (const int64_t channels : mask_channels) {
        if (channels < 1)
            throw std::invalid_argument(
                "mask_channels: expected whole numbers of at least 1, got " + std::to_string(channels));
        sum += channels;
    }
    if (mask_channels.empty()) return {};
    if (sum != c)
        throw std::invalid_argument(
            "mask_channels: expected a sum of C = " + std::to_string(c) + ", got " + std::to_string(sum));
    const auto blocks = int64_t(mask_channels.size());
    if (blocks > 2 && blocks != c)
        throw std::invalid_argument(
            "mask_channels: expected one, two or C = " + std::to_string(c) + " numbers, got " + std::to_string(blocks));
    return pconv::mask_of(nullptr, 1, 0, blocks, mask_channels[0]);
}

void append(py::list& rows, const char* name, Pass pass, const Plan& plan, const std::string& more = "") {
    const std::string notes = notes_of(pass, plan);
    rows.append(
        py::make_tuple(name, kernel_name(pass, plan), notes + (notes.empty() || more.empty() ? "" : ", ") + more));
}

py::list plan(
    int64_t n, int64_t c, int64_t h, int64_t w, int64_t k, int64_t r, int64_t s, int64_t stride,
    const std::string& dtype, const std::vector<int64_t>& mask_channels, bool channels_last, bool tf32, int arch,
    int multiprocessors, int64_t shared_bytes, bool wgmma) {
    const pconv::Geometry g = geometry({n, c, h, w, k}, r, s, stride, dtype, channels_last);
    const Device device = device_from(arch, multiprocessors, shared_bytes, wgmma);
    const pconv::Mask mask = mask_from(mask_channels, c);
    const Plan dgrad = make_plan(Pass::dgrad, g, mask, tf32, device, true, channels_last);
    const bool per_channel = is_per_channel(mask, c);
    py::list rows;
    append(rows, "forward", Pass::fprop, make_plan(Pass::fprop, g, mask, tf32, device, true, channels_last));
    append(rows, "input gradient", Pass::dgrad, dgrad, dgrad.fast && per_channel ? "masked in a pass of its own" : "");
    append(rows, "weight gradient", Pass::wgrad, make_plan(Pass::wgrad, g, mask, tf32, device, true, channels_last));
    return rows;
}

// Without kernels of its own the stage's input is doubled and joined in memory, and an ordinary layer follows.
const char* const joined = "input doubled and joined first";

void append_forward(
    py::list& rows, const char* name, const pconv::Geometry& g, int64_t low, bool phases_given, bool tf32,
    const Device& device) {
    const bool krsc = g.layout == pconv::Layout::nhwc;
    const Plan stage = make_upcat_plan(g, low, phases_given, tf32, device, true, true, krsc);
    const pconv::Mask mask = pconv::mask_of(nullptr, 1, 0, 2, low);
    if (stage.fast)
        append(rows, name, Pass::upcat, stage);
    else
        append(rows, name, Pass::fprop, make_plan(Pass::fprop, g, mask, tf32, device, true, krsc), joined);
}

void append_backward(py::list& rows, const pconv::Geometry& g, int64_t low, bool tf32, const Device& device) {
    const bool krsc = g.layout == pconv::Layout::nhwc;
    const UpcatBackwardPlan stage = make_upcat_backward_plan(g, low, tf32, device);
    if (stage.materialised) {
        const pconv::Mask mask = pconv::mask_of(nullptr, 1, 0, 2, low);
        const auto make = [&](Pass pass) { return make_plan(pass, g, mask, tf32, device, true, krsc); };
        append(rows, "input gradients", Pass::dgrad, make(Pass::dgrad), joined);
        append(rows, "weight gradient", Pass::wgrad, make(Pass::wgrad), joined);
        return;
    }
    pconv::Geometry skip = g;
    skip.c = g.c - low;
    // Its filters are a part of the weight's: they have gaps.
    const auto make = [&](Pass pass) { return make_plan(pass, skip, {}, tf32, device, true, false); };
    append(rows, "low gradient", Pass::fprop, stage.fprop, "as a 4x4 convolution with stride 2");
    append(rows, "skip gradient", Pass::dgrad, make(Pass::dgrad));
    append(rows, "weight of low", Pass::wgrad, stage.wgrad, "of that convolution, folded");
    append(rows, "weight of skip", Pass::wgrad, make(Pass::wgrad));
}

py::list plan_upcat(
    int64_t n, int64_t c, int64_t h, int64_t w, int64_t k, int64_t low_channels, const std::string& dtype,
    bool channels_last, bool tf32, int arch, int multiprocessors, int64_t shared_bytes, bool wgmma) {
    if (low_channels < 1 || low_channels >= c)
        throw std::invalid_argument(
            "low_channels: expected 1 to C - 1 = " + std::to_string(c - 1) + ", got " + std::to_string(low_channels));
    if (h % 2 || w % 2)
        throw std::invalid_argument(
            "H, W: expected even sizes for a decoder stage, got " + std::to_string(h) + " and " + std::to_string(w));
    const pconv::Geometry g = geometry({n, c, h, w, k}, 3, 3, 1, dtype, channels_last);
    const Device device = device_from(arch, multiprocessors, shared_bytes, wgmma);
    py::list rows;
    append_forward(rows, "forward", g, low_channels, false, tf32, device);
    append_forward(rows, "forward, fused", g, low_channels, true, tf32, device);
    append_backward(rows, g, low_channels, tf32, device);
    return rows;
}

// A plan in numbers, for benchmarks/static_model. Every entry is a whole number but for the names.
py::dict numbers(const char* name, Pass pass, const Plan& plan, const pconv::Geometry& g) {
    const TileShape& tile = tile_shapes[static_cast<int>(plan.tile)];
    const Grid grid = grid_of(pass, plan, g);
    const char* const passes[] = {"fprop", "dgrad", "wgrad", "upcat"};
    const char* const maths[] = {"bf16", "fp16", "tf32", "fp32"};
    const char* const specials[] = {"", "first", "last"};
    py::dict row;
    row["name"] = name;
    row["pass"] = passes[static_cast<int>(pass)];
    row["kernel"] = kernel_name(pass, plan);
    row["fast"] = plan.fast, row["reason"] = plan.reason;
    row["special"] = specials[static_cast<int>(plan.special)];
    row["math"] = maths[static_cast<int>(plan.math)];
    row["tile"] = tile.name, row["rows"] = tile.rows, row["columns"] = tile.columns;
    row["shared_bytes"] = pass == Pass::wgrad ? tile.wgrad_shared_bytes : tile.shared_bytes;
    row["splits"] = plan.splits;
    row["patch_h"] = plan.patch_h, row["patch_w"] = plan.patch_w;
    row["taps_per_step"] = plan.taps_per_step;
    row["mask_blocks"] = plan.packing.blocks;
    row["source_channels"] = plan.packing.channels();
    row["k_padded"] = plan.k_padded;
    row["direct"] = plan.direct, row["transposed_filters"] = plan.transposed_filters;
    row["pack_input"] = plan.pack_input, row["pack_skip"] = plan.pack_skip;
    row["pack_filters"] = plan.pack_filters;
    row["grid"] = py::make_tuple(grid.x, grid.y, grid.z);
    row["geometry"] = py::dict(
        py::arg("n") = g.n, py::arg("c") = g.c, py::arg("h") = g.h, py::arg("w") = g.w, py::arg("k") = g.k,
        py::arg("r") = g.r, py::arg("s") = g.s, py::arg("stride") = g.stride_h, py::arg("p") = g.p, py::arg("q") = g.q);
    return row;
}

py::list layer_numbers(
    const pconv::Geometry& g, const pconv::Mask& mask, bool backward_only, bool tf32, const Device& device) {
    const bool krsc = g.layout == pconv::Layout::nhwc;
    const auto make = [&](Pass pass) { return make_plan(pass, g, mask, tf32, device, true, krsc); };
    py::list rows;
    if (!backward_only) rows.append(numbers("forward", Pass::fprop, make(Pass::fprop), g));
    rows.append(numbers(backward_only ? "input gradients" : "input gradient", Pass::dgrad, make(Pass::dgrad), g));
    rows.append(numbers("weight gradient", Pass::wgrad, make(Pass::wgrad), g));
    return rows;
}

// low_channels > 0: a decoder stage, whose h and w are the output's; the rows are those of plan() or plan_upcat().
py::list plan_numbers(
    int64_t n, int64_t c, int64_t h, int64_t w, int64_t k, int64_t r, int64_t s, int64_t stride,
    const std::string& dtype, int64_t low, const std::vector<int64_t>& mask_channels, bool channels_last, bool tf32,
    int arch, int multiprocessors, int64_t shared_bytes, bool wgmma, int tile) {
    const pconv::Geometry g = geometry({n, c, h, w, k}, r, s, stride, dtype, channels_last);
    Device device = device_from(arch, multiprocessors, shared_bytes, wgmma);
    device.wanted.fill(static_cast<signed char>(tile));
    if (low <= 0) return layer_numbers(g, mask_from(mask_channels, c), false, tf32, device);
    if (low >= c || h % 2 || w % 2 || r != 3 || s != 3 || stride != 1)
        throw std::invalid_argument("plan_numbers: a stage has 3x3 windows, even sizes and low_channels below C");
    const pconv::Mask joined_mask = pconv::mask_of(nullptr, 1, 0, 2, low);
    const bool krsc = g.layout == pconv::Layout::nhwc;
    py::list rows;
    for (const bool phases_given : {false, true}) {
        const char* const name = phases_given ? "forward, fused" : "forward";
        const Plan stage = make_upcat_plan(g, low, phases_given, tf32, device, true, true, krsc);
        if (stage.fast)
            rows.append(numbers(name, Pass::upcat, stage, g));
        else
            rows.append(
                numbers(name, Pass::fprop, make_plan(Pass::fprop, g, joined_mask, tf32, device, true, krsc), g));
    }
    const UpcatBackwardPlan backward = make_upcat_backward_plan(g, low, tf32, device);
    if (backward.materialised) {
        for (const py::handle row : layer_numbers(g, joined_mask, true, tf32, device)) rows.append(row);
        return rows;
    }
    pconv::Geometry skip = g;
    skip.c = g.c - low;
    const auto make = [&](Pass pass) { return make_plan(pass, skip, {}, tf32, device, true, false); };
    const pconv::Geometry& small = backward.low_convolution;
    rows.append(numbers("low gradient", Pass::fprop, backward.fprop, small));
    rows.append(numbers("skip gradient", Pass::dgrad, make(Pass::dgrad), skip));
    rows.append(numbers("weight of low", Pass::wgrad, backward.wgrad, small));
    rows.append(numbers("weight of skip", Pass::wgrad, make(Pass::wgrad), skip));
    return rows;
}

}  // namespace

void define_plan(py::module_& m) {
    m.attr("tile_count") = tile_count;
    m.def(
        "plan", &plan, py::arg("n"), py::arg("c"), py::arg("h"), py::arg("w"), py::arg("k"), py::arg("r"), py::arg("s"),
        py::arg("stride"), py::arg("dtype"), py::kw_only(), py::arg("mask_channels") = std::vector<int64_t>{},
        py::arg("channels_last") = true, py::arg("tf32") = true, py::arg("arch") = 90, py::arg("multiprocessors") = 132,
        py::arg("shared_bytes") = 227 << 10, py::arg("wgmma") = false,
        "Which CUDA kernels a layer would run on: [(pass, kernel, notes)].");
    m.def(
        "plan_upcat", &plan_upcat, py::arg("n"), py::arg("c"), py::arg("h"), py::arg("w"), py::arg("k"),
        py::arg("low_channels"), py::arg("dtype"), py::kw_only(), py::arg("channels_last") = true,
        py::arg("tf32") = true, py::arg("arch") = 90, py::arg("multiprocessors") = 132,
        py::arg("shared_bytes") = 227 << 10, py::arg("wgmma") = false,
        "The same for a decoder stage; h and w are the output's, and \"fused\" has the weight's phases prepared.");
    m.def(
        "plan_numbers", &plan_numbers, py::arg("n"), py::arg("c"), py::arg("h"), py::arg("w"), py::arg("k"),
        py::arg("r"), py::arg("s"), py::arg("stride"), py::arg("dtype"), py::kw_only(), py::arg("low_channels") = 0,
        py::arg("mask_channels") = std::vector<int64_t>{}, py::arg("channels_last") = true, py::arg("tf32") = true,
        py::arg("arch") = 90, py::arg("multiprocessors") = 132, py::arg("shared_bytes") = 227 << 10,
        py::arg("wgmma") = false, py::arg("tile") = -1,
        "The plans of a layer, or with low_channels of a decoder stage, as dictionaries of numbers. tile: the number "
        "of "
        "one that is taken where it can be.");
}
