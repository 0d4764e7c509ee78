#include "plan.h"

#include "edge_layers.h"
#include "tile.h"

#include <algorithm>

namespace pconv::cuda {
namespace {

MathId math_of(DType dtype, bool tf32) {
    if (dtype == DType::bf16) return MathId::bf16;
    if (dtype == DType::f16) return MathId::f16;
    return tf32 ? MathId::tf32 : MathId::ieee;
}

// The product's sizes. Rows of dgrad are counted for its largest parity class.
struct Extent {
    int64_t grid_h, grid_w, classes, channels, reduction;
};

Extent extent_of(Pass pass, const Geometry& g) {
    if (pass == Pass::fprop) return {g.p, g.q, 1, g.k, g.c};
    return {div_up(g.h, g.stride_h), div_up(g.w, g.stride_w), g.stride_h * g.stride_w, g.c, g.k};
}

// Patches of pixels where they do not waste more than an eighth of the rows.
void choose_patches(Plan& plan, const Extent& e, int rows) {
    const int h = rows == 256 ? patch_height<256> : patch_height<128>, w = rows / h;
    const int64_t covered = round_up(e.grid_h, h) * round_up(e.grid_w, w);
    if (covered * 8 <= e.grid_h * e.grid_w * 9) plan.patch_h = h, plan.patch_w = w;
}

int64_t row_tiles(const Plan& plan, const Extent& e, int64_t n, int rows) {
    if (plan.patch_w == 0) return div_up(n * e.grid_h * e.grid_w, rows);
    return n * div_up(e.grid_h, plan.patch_h) * div_up(e.grid_w, plan.patch_w);
}

const TileShape& shape_of(TileId tile) { return tile_shapes[static_cast<int>(tile)]; }

int64_t shared_bytes_of(TileId tile, Pass pass) {
    return pass == Pass::wgrad ? shape_of(tile).wgrad_shared_bytes : shape_of(tile).shared_bytes;
}

// Blocks of a tile that a multiprocessor runs at once: its shared memory, of which the driver takes a KiB for each
// block, and the kernels' registers. Weight gradients in fp32 need more of them (tile_types.h).
int64_t resident_blocks(TileId tile, Pass pass, MathId math, const Device& device) {
    constexpr int64_t reserved = 1 << 10;
    const int64_t all =
        device.shared_per_multiprocessor > 0 ? device.shared_per_multiprocessor : device.shared_bytes + reserved;
    int64_t most = shape_of(tile).most_resident;
    if (math == MathId::ieee || (pass == Pass::wgrad && math == MathId::tf32)) most = tile == TileId::small ? 3 : 1;
    return std::clamp<int64_t>(all / (shared_bytes_of(tile, pass) + reserved), 1, most);
}

int64_t slots_of(TileId tile, Pass pass, MathId math, const Device& device) {
    return device.multiprocessors * resident_blocks(tile, pass, math, device);
}

// Whether a rule is for this device and a product of so many columns. wgmma's TMA boxes hold one tap of filters as they
// lie.
bool applies(const TileRule& rule, Pass pass, const Plan& plan, const Device& device, int64_t columns) {
    if (!(rule.passes & bit_of(pass)) || !(rule.maths & bit_of(plan.math)) || columns <= rule.more_columns)
        return false;
    if (shared_bytes_of(rule.tile, pass) > device.shared_bytes) return false;
    if (rule.resident > 1 && resident_blocks(rule.tile, pass, MathId::bf16, device) < rule.resident) return false;
    return !rule.wgmma || (device.wgmma && device.arch == 90 && plan.taps_per_step == 1 && !plan.transposed_filters);
}

// steps: of the K loop.
void choose_gemm_tile(Plan& plan, Pass pass, const Extent& e, int64_t n, const Device& device, int64_t steps) {
    int64_t tiles = 0;
    for (const TileRule& rule : tile_rules) {
        if (!applies(rule, pass, plan, device, e.channels) || e.channels > rule.max_channels) continue;
        // Transposed filters of half types have the small tile alone.
        if (plan.transposed_filters && plan.math != MathId::tf32 && rule.tile != TileId::small) continue;
        const TileShape& shape = shape_of(rule.tile);
        plan.tile = rule.tile;
        plan.patch_h = plan.patch_w = 0;
        if (!plan.direct) choose_patches(plan, e, shape.rows);
        tiles = row_tiles(plan, e, n, shape.rows) * div_up(e.channels, shape.columns) * e.classes;
        if (tiles * 100 >= int64_t(rule.min_fill) * device.multiprocessors) break;
    }
    // Deep layers have few pixels and many weights: the reduction is then shared out, at least four steps a share, as
    // far as blocks run at once: one block more would be a second round.
    if (tiles > 0)
        plan.splits = int(std::clamp<int64_t>(
            slots_of(plan.tile, pass, plan.math, device) / tiles, 1, std::clamp<int64_t>(steps / 4, 1, 16)));
}

struct Splits {
    int count;
    double cost;
};

// Splits of the pixels: they fill the device's rounds of blocks, and each costs a write and a read of its sums. Both
// in the bytes that the tensor cores' time is worth, for each filter and column. work: of the tiles, in that of the
// filters and columns themselves.
Splits wgrad_splits(int64_t tiles, int64_t slots, double work, int64_t pixels, int64_t most, const Device& device) {
    Splits best{1, 0};
    for (int64_t splits = 1; splits <= most; ++splits) {
        const double rounds = double(div_up(tiles * splits, slots)) * double(slots) / double(tiles * splits);
        const double cost = 2. * double(pixels) / double(device.flops_per_byte) * work * rounds + 8. * double(splits);
        if (splits == 1 || cost < best.cost) best = {int(splits), cost};
    }
    return best;
}

// wgmma where there is such a tile, else the cheapest tile: splits fill the device, whatever it is.
void choose_wgrad_tile(Plan& plan, const Geometry& g, const Device& device, int64_t chunk) {
    const int64_t columns = g.r * g.s * plan.packing.channels(), pixels = g.n * g.p * g.q;
    const int64_t steps = div_up(pixels, 8 * chunk);
    constexpr int64_t most_partial = int64_t(32) << 20;  // bytes of partial sums
    const int64_t room = std::max<int64_t>(1, most_partial / (g.k * columns * 4));
    const int64_t most = std::min({room, std::max<int64_t>(1, steps / 8), int64_t(1024)});
    double least = -1;
    for (const TileRule& rule : tile_rules) {
        if (!applies(rule, Pass::wgrad, plan, device, columns) || g.k > rule.max_channels) continue;
        const TileShape& shape = shape_of(rule.tile);
        const int64_t tiles = div_up(g.k, shape.rows) * div_up(columns, shape.columns);
        const double covered = double(tiles * shape.rows * shape.columns) / double(g.k * columns);
        const Splits splits = wgrad_splits(
            tiles, slots_of(rule.tile, Pass::wgrad, plan.math, device), covered * rule.cost / 100., pixels, most,
            device);
        if (least < 0 || splits.cost < least) plan.tile = rule.tile, plan.splits = splits.count, least = splits.cost;
        if (rule.wgmma) break;
    }
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

    // dgrad's filters and every mask that is applied while packing know no blocks.
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
