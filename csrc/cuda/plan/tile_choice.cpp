#include "tile_choice.h"

#include "tile.h"

#include <algorithm>

namespace pconv::cuda {
namespace {

// Patches of pixels where they do not waste more than an eighth of the rows. Images' sides are seldom multiples of 3:
// 192 rows are runs of pixels, whose taps meet in the L2 cache as well.
void choose_patches(Plan& plan, const Extent& e, int rows) {
    if (rows == 192) return;
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

// wgmma's TMA boxes hold one tap of filters as they lie.
bool has_wgmma(const Plan& plan, const Device& device) {
    const bool half = bit_of(plan.math) == half_bit;
    return device.wgmma && device.arch == 90 && half && plan.taps_per_step == 1 && !plan.transposed_filters;
}

// Whether a rule is for this device and a product of so many columns.
bool applies(const TileRule& rule, Pass pass, const Plan& plan, const Device& device, int64_t columns) {
    if (!(rule.passes & bit_of(pass)) || !(rule.maths & bit_of(plan.math)) || columns <= rule.more_columns)
        return false;
    if (shared_bytes_of(rule.tile, pass) > device.shared_bytes) return false;
    if (rule.resident > 1 && resident_blocks(rule.tile, pass, MathId::bf16, device) < rule.resident) return false;
    return !rule.wgmma || has_wgmma(plan, device);
}

signed char wanted_tile(Pass pass, const Device& device) { return device.wanted[static_cast<int>(pass)]; }

// Takes a tile for a product of n images; the number of its blocks before any splits.
int64_t take_tile(Plan& plan, TileId tile, const Extent& e, int64_t n) {
    const TileShape& shape = shape_of(tile);
    plan.tile = tile;
    plan.patch_h = plan.patch_w = 0;
    if (!plan.direct) choose_patches(plan, e, shape.rows);
    return row_tiles(plan, e, n, shape.rows) * div_up(e.channels, shape.columns) * e.classes;
}

// At least four steps a split.
int64_t most_splits(int64_t steps) { return std::clamp<int64_t>(steps / 4, 1, 16); }

// Cycles of all rounds of blocks, and of the sums of their splits.
int64_t cycles_of(
    const TileCost& cost, int64_t tiles, int64_t splits, int64_t steps, int64_t resident, int64_t outputs,
    const Device& device) {
    const int64_t blocks = tiles * splits, rounds = div_up(blocks, device.multiprocessors * resident);
    const int64_t step = blocks <= device.multiprocessors ? cost.alone : cost.together;
    const int64_t sums = splits > 1 ? outputs * (8 * splits + 2) / sum_bytes_per_cycle + sum_launch_cycles : 0;
    return rounds * (cost.once + div_up(steps, splits) * step) + sums;
}

// Tile and splits with the least cycles. False: none fits, or one of mma.sync's is wanted.
bool choose_by_cycles(
    Plan& plan, Pass pass, const Extent& e, int64_t n, const Device& device, int64_t steps, signed char wanted) {
    Plan best = plan;
    int64_t least = -1;
    for (const TileCost& cost : wgmma_costs) {
        if (e.channels <= cost.more_columns) continue;
        if (wanted >= 0 ? wanted != static_cast<signed char>(cost.tile) : !cost.measured) continue;
        if (wanted == wgmma_tiles[0] && !is_wgmma(cost.tile)) continue;
        Plan own = plan;
        const int64_t tiles = take_tile(own, cost.tile, e, n);
        const int64_t resident = resident_blocks(cost.tile, pass, plan.math, device);
        const int64_t outputs = n * e.grid_h * e.grid_w * e.classes * e.channels;
        for (own.splits = 1; own.splits <= most_splits(steps); ++own.splits) {
            const int64_t cycles = cycles_of(cost, tiles, own.splits, steps, resident, outputs, device);
            if (least < 0 || cycles < least) best = own, least = cycles;
        }
    }
    if (least >= 0) plan = best;
    // Of fewer columns than the wanted tile is for.
    if (least < 0 && wanted >= 0 && is_wgmma(TileId(wanted)))
        return choose_by_cycles(plan, pass, e, n, device, steps, wgmma_tiles[0]);
    return least >= 0;
}

}  // namespace

void choose_gemm_tile(Plan& plan, Pass pass, const Extent& e, int64_t n, const Device& device, int64_t steps) {
    if (n > 0 && has_wgmma(plan, device) &&
        choose_by_cycles(plan, pass, e, n, device, steps, wanted_tile(pass, device)))
        return;
    int64_t tiles = 0;
    bool filled = false;
    for (const TileRule& rule : tile_rules) {
        if (!applies(rule, pass, plan, device, e.channels)) continue;
        // Transposed filters of half types have the small tile alone.
        if (plan.transposed_filters && plan.math != MathId::tf32 && rule.tile != TileId::small) continue;
        const bool wanted = wanted_tile(pass, device) == static_cast<signed char>(rule.tile);
        if (e.channels > rule.max_channels && (!wanted || rule.tile == TileId::thin)) continue;
        if (filled && !wanted) continue;
        tiles = take_tile(plan, rule.tile, e, n);
        if (wanted) break;
        filled = tiles * 100 >= int64_t(rule.min_fill) * device.multiprocessors;
    }
    // Deep layers have few pixels and many weights: the reduction is then shared out as far as blocks run at once: one
    // block more would be a second round.
    if (tiles > 0)
        plan.splits =
            int(std::clamp<int64_t>(slots_of(plan.tile, pass, plan.math, device) / tiles, 1, most_splits(steps)));
}

namespace {

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

}  // namespace

// wgmma where there is such a tile, else the cheapest tile: splits fill the device, whatever it is.
void choose_wgrad_tile(Plan& plan, const Geometry& g, const Device& device, int64_t chunk) {
    const int64_t columns = g.r * g.s * plan.packing.channels(), pixels = g.n * g.p * g.q;
    const int64_t steps = div_up(pixels, 8 * chunk);
    constexpr int64_t most_partial = int64_t(32) << 20;  // bytes of partial sums
    const int64_t room = std::max<int64_t>(1, most_partial / (g.k * columns * 4));
    const int64_t most = std::min({room, std::max<int64_t>(1, steps / 8), int64_t(1024)});
    double least = -1;
    bool found = false;
    for (const TileRule& rule : tile_rules) {
        if (!applies(rule, Pass::wgrad, plan, device, columns) || g.k > rule.max_channels) continue;
        const TileShape& shape = shape_of(rule.tile);
        const int64_t tiles = div_up(g.k, shape.rows) * div_up(columns, shape.columns);
        const double covered = double(tiles * shape.rows * shape.columns) / double(g.k * columns);
        const Splits splits = wgrad_splits(
            tiles, slots_of(rule.tile, Pass::wgrad, plan.math, device), covered * rule.cost / 100., pixels, most,
            device);
        const bool wanted = wanted_tile(Pass::wgrad, device) == static_cast<signed char>(rule.tile);
        if (!rule.measured && !wanted) continue;
        if (wanted || (!found && (least < 0 || splits.cost < least)))
            plan.tile = rule.tile, plan.splits = splits.count, least = splits.cost;
        if (wanted) break;
        found |= rule.wgmma;
    }
}

}  // namespace pconv::cuda
