// Which tile serves which problem: data, not code. Plain C++, shared by the launchers, the plan and `pconv info
// --plan`.
#pragma once

#include <cstdint>

namespace pconv::cuda {

enum class Pass { fprop, dgrad, wgrad, upcat };  // upcat: the decoder stage's forward

// How products are made: on tensor cores from bf16, fp16 or fp32 rounded to tf32, or in fp32 without them.
enum class MathId { bf16, f16, tf32, ieee };

enum class TileId {
    large,
    wide,
    small,
    thin,
    lean,
    wgmma_128x256,
    wgmma_128x128,
    wgmma_128x64,
    wgmma_192x256,
    wgmma_256x128,
    wgmma_256x64,
    wgmma_64x256
};
constexpr int tile_count = 12;

struct TileShape {
    const char* name;
    int rows, columns;           // pixels x channels; for wgrad filters x (tap, channel)
    int64_t shared_bytes;        // a block of fprop, dgrad or upcat needs no more; 0: they have no such tile
    int64_t wgrad_shared_bytes;  // of wgrad; the same
    int most_resident;           // blocks on a multiprocessor that the registers allow, of half types
};

// Indexed by TileId. The kernels' own constants (tile_types.h) are checked against these.
constexpr TileShape tile_shapes[tile_count] = {
    {"128x128", 128, 128, 101 << 10, 98 << 10, 2},
    {"256x64", 256, 64, 89 << 10, 0, 2},
    {"64x64", 64, 64, 52 << 10, 50 << 10, 4},
    {"128x8", 128, 8, 73 << 10, 0, 4},
    {"128x128 (2 stages)", 128, 128, 73 << 10, 70 << 10, 2},
    {"wgmma 128x256", 128, 256, 227 << 10, 227 << 10, 1},
    {"wgmma 128x128", 128, 128, 104 << 10, 227 << 10, 2},
    {"wgmma 128x64", 128, 64, 54 << 10, 0, 3},
    {"wgmma 192x256", 192, 256, 203 << 10, 0, 1},
    {"wgmma 256x128", 256, 128, 201 << 10, 0, 1},
    {"wgmma 256x64", 256, 64, 89 << 10, 0, 2},
    {"wgmma 64x256", 64, 256, 0, 123 << 10, 1}};

// Of the kernels, for errors and profiles; indexed by Pass and TileId.
constexpr const char* gemm_names[][tile_count] = {
    {"fprop 128x128", "fprop 256x64", "fprop 64x64", "fprop 128x8", "fprop 128x128, 2 stages", "fprop wgmma 128x256",
     "fprop wgmma 128x128", "fprop wgmma 128x64", "fprop wgmma 192x256", "fprop wgmma 256x128", "fprop wgmma 256x64",
     "fprop wgmma 64x256"},
    {"dgrad 128x128", "dgrad 256x64", "dgrad 64x64", "dgrad 128x8", "dgrad 128x128, 2 stages", "dgrad wgmma 128x256",
     "dgrad wgmma 128x128", "dgrad wgmma 128x64", "dgrad wgmma 192x256", "dgrad wgmma 256x128", "dgrad wgmma 256x64",
     "dgrad wgmma 64x256"},
    {"wgrad 128x128", "wgrad 256x64", "wgrad 64x64", "wgrad 128x8", "wgrad 128x128, 2 stages", "wgrad wgmma 128x256",
     "wgrad wgmma 128x128", "wgrad wgmma 128x64", "wgrad wgmma 192x256", "wgrad wgmma 256x128", "wgrad wgmma 256x64",
     "wgrad wgmma 64x256"},
    {"upcat 128x128", "upcat 256x64", "upcat 64x64", "upcat 128x8", "upcat 128x128, 2 stages", "upcat wgmma 128x256",
     "upcat wgmma 128x128", "upcat wgmma 128x64", "upcat wgmma 192x256", "upcat wgmma 256x128", "upcat wgmma 256x64",
     "upcat wgmma 64x256"}};

constexpr const char* gemm_name(Pass pass, TileId tile) {
    return gemm_names[static_cast<int>(pass)][static_cast<int>(tile)];
}

constexpr bool is_wgmma(TileId tile) { return tile >= TileId::wgmma_128x256; }

// With pixels as wgmma's wide operand (sm90_tile.cuh).
constexpr bool is_tall(TileId tile) { return tile >= TileId::wgmma_192x256; }

constexpr unsigned fprop_bit = 1, dgrad_bit = 2, wgrad_bit = 4, upcat_bit = 8;
constexpr unsigned half_bit = 1, tf32_bit = 2, ieee_bit = 4;

// The first rule that fits is taken.
struct TileRule {
    unsigned passes, maths;
    int64_t max_channels;  // of the output: filters for fprop and wgrad, input channels for dgrad
    int min_fill;          // blocks, in percent of the device's multiprocessors
    TileId tile;
    bool wgmma = false;        // for devices with the sm_90a instructions, where they are asked for
    int64_t more_columns = 0;  // the product has more columns than this
    int resident = 1;          // blocks that have to fit on a multiprocessor at once
    int cost = 100;        // wgrad on mma.sync takes the cheapest of its tiles: of the time for a product, in percent
    bool measured = true;  // as a cost's, below
};

// What a block of fprop, dgrad or upcat takes on sm_90, in cycles: a step of the K loop where it is alone on its
// multiprocessor and where as many as fit are there (all of them then make one step each), and everything else. Fitted
// to an H100's times of every tile on every layer of the network (benchmarks/gpu/tiles.py): 8 % off on average, and the
// tile that they choose is within 8 % of the fastest. Devices with wgmma take the tile and the splits that are the
// cheapest by these: wide tiles read shared memory least, narrow ones fill rounds better. No GPU has run the tall tiles
// yet, whose costs are counted (docs/static-model.md): they are taken where one is wanted, as in benchmark mode, which
// times them.
struct TileCost {
    TileId tile;
    int alone, together, once;
    int64_t more_columns;  // as a rule's: of the product
    bool measured = true;
};
constexpr TileCost wgmma_costs[] = {
    {TileId::wgmma_128x256, 1150, 1100, 19900, 128},        {TileId::wgmma_128x128, 860, 1330, 17900, 64},
    {TileId::wgmma_128x64, 1330, 1610, 16700, 8},           {TileId::small, 610, 1410, 15000, 8},
    {TileId::wgmma_192x256, 1670, 1670, 19900, 128, false}, {TileId::wgmma_256x128, 1150, 1150, 19900, 64, false},
    {TileId::wgmma_256x64, 800, 1300, 18000, 8, false}};
// Sums of splits: bytes that all multiprocessors together move in a cycle, and a launch.
constexpr int64_t sum_bytes_per_cycle = 1540, sum_launch_cycles = 3500;

// 64x64 a warp is what mma.sync wants (shared memory is read 0.75 clocks a tensor clock, 1.0 with 64x32); smaller tiles
// only where the large ones would leave multiprocessors idle. 128x8 is the one instruction's width of 8: it serves last
// layers. wgmma wants 256 columns: the right operand is then read once for 64 rows and shared memory keeps up.
// Four warps alone leave a multiprocessor's tensor cores waiting: `large` is taken where two blocks fit, `lean` (two
// stages) elsewhere, twice on an A100, once on devices with 99 KiB of shared memory (sm_86, sm_89, sm_120). wgrad's
// `small` takes 1.23 (RTX 4090) to 1.45 (H100) of its larger tiles' time for a product by the counted cycles, but it
// wastes less where filters are few and fills rounds better.
constexpr TileRule tile_rules[] = {
    {fprop_bit, half_bit | tf32_bit, 8, 0, TileId::thin},
    {wgrad_bit, half_bit, INT64_MAX, 100, TileId::wgmma_128x256, true, 128},
    {wgrad_bit, half_bit, INT64_MAX, 50, TileId::wgmma_128x128, true, 64},
    {wgrad_bit, half_bit, INT64_MAX, 100, TileId::wgmma_64x256, true, 128, 1, 100, false},
    {fprop_bit | dgrad_bit | upcat_bit, half_bit, 64, 100, TileId::wide},
    {fprop_bit | dgrad_bit | wgrad_bit | upcat_bit, half_bit | tf32_bit, INT64_MAX, 100, TileId::large, false, 64, 2},
    {fprop_bit | dgrad_bit | wgrad_bit | upcat_bit, half_bit | tf32_bit, INT64_MAX, 100, TileId::lean, false, 64},
    {fprop_bit | dgrad_bit | wgrad_bit | upcat_bit, half_bit | tf32_bit | ieee_bit, INT64_MAX, 0, TileId::small, false,
     0, 1, 135},
};

// Whether the decoder stage's forward reads low under 9 taps of the weight itself, or under 4 of the weight in phases.
// Phases save 5 of 9 taps: 10 operations for each output pixel, filter and low channel. They cost bytes, for each
// filter and low channel: 16 weights are read instead of 9, and before that 9 are read and 16 written, unless that is
// done already. So at 200 operations a byte phases begin to pay at 1280 pixels, whatever the tensor cores' dtype (at
// 280 where they are given): of the paper's layers at batch 6, from dec6 (16 x 16) on.
constexpr bool prefers_direct(MathId math, int64_t half_flops_per_byte, int64_t output_pixels, bool phases_given) {
    const int64_t element = math == MathId::bf16 || math == MathId::f16 ? 2 : 4;
    const int64_t slower = math == MathId::ieee ? 10 : math == MathId::tf32 ? 2 : 1;  // than half types
    return 10 * output_pixels < (phases_given ? 7 : 32) * element * half_flops_per_byte / slower;
}

constexpr unsigned bit_of(Pass pass) { return 1u << static_cast<int>(pass); }
constexpr unsigned bit_of(MathId math) {
    return math == MathId::ieee ? ieee_bit : math == MathId::tf32 ? tf32_bit : half_bit;
}

}  // namespace pconv::cuda
