// How a problem will be run: which kernel, which tile, what has to be repacked first. Decided on the host from sizes
// alone, without a device and without tensors, so that `pconv info --plan` can tell it anywhere.
#pragma once

#include "../problem.h"
#include "tiles.h"

#include <array>

namespace pconv::cuda {

// A tile for each pass, by its number; -1: none in particular; -2: one of wgmma's.
using Tiles = std::array<signed char, 4>;
constexpr Tiles any_tiles{-1, -1, -1, -1}, wgmma_tiles{-2, -2, -2, -2};

// What the choice depends on besides the problem.
struct Device {
    int arch = 80;  // 10 * major + minor
    int multiprocessors = 108;
    int64_t shared_bytes = 163 << 10;  // that a block may have: 163 KiB on sm_80, 227 on sm_90, 99 on sm_86, 89, 120
    // Of a multiprocessor, for all of its blocks; 0: one KiB more than a block may have, as on sm_80 to sm_120.
    int64_t shared_per_multiprocessor = 0;
    bool wgmma = false;                             // take the sm_90a kernels where they exist
    int64_t max_elements = (int64_t(1) << 31) - 1;  // of a tensor in one launch: offsets are 32-bit in the fast kernels
    // That tensor cores make from half types in the time of a byte of memory: 200 on an A100 (310 TFLOP/s, 1.55 TB/s)
    // and on an H100 (600 reached, 3.0).
    int64_t flops_per_byte = 200;
    Tiles wanted = any_tiles;  // taken where they can be, whatever the rules say of sizes: to be timed
};

// First- and last-layer kernels (edge_layer_kernels.h), in place of the general product.
enum class Special { none, first, last };

struct Plan {
    bool fast = false;  // else the library's convolution with our passes around it, and `reason` says why
    const char* reason = "";
    MathId math = MathId::ieee;
    TileId tile = TileId::small;
    Packing packing;               // of the input's channels (dgrad: of the filters')
    bool mask_in_packing = false;  // a mask a channel, or too many taps: x is masked while it is packed
    bool pack_input = false, pack_filters = false;
    bool transposed_filters = false;  // dgrad
    int64_t k_padded = 0;             // of the scaled gradient
    int taps_per_step = 1;
    int patch_h = 0, patch_w = 0;
    int splits = 1;
    int64_t images_per_launch = 0;
    Special special = Special::none;         // fprop
    int special_blocks = 0;                  // first: blocks that walk over the tiles
    bool direct = false, pack_skip = false;  // upcat: no phases; pack_input is low's
};

// mask: its bytes are not read. aligned: tensors begin at multiples of 16 bytes. filters_krsc: they lie as [K, R, S, C]
// without gaps.
Plan make_plan(
    Pass pass, const Geometry& g, const Mask& mask, bool tf32, const Device& device, bool input_aligned,
    bool filters_krsc);

// The forward of the decoder's stage. g: the convolution's geometry at full resolution, c = low's and the skip's.
Plan make_upcat_plan(
    const Geometry& g, int64_t low_channels, bool phases_given, bool tf32, const Device& device, bool low_aligned,
    bool skip_aligned, bool filters_krsc);

// The backward of the decoder's stage. Where it is not materialised, low's half is a 4x4 convolution of the scaled
// gradient with stride 2 (fprop: low's gradient, wgrad: low's part of dw), and the skip's an ordinary backward.
struct UpcatBackwardPlan {
    bool materialised;  // the doubled and concatenated input is written out
    int64_t k_padded;
    Geometry low_convolution;
    Plan fprop, wgrad;
};
UpcatBackwardPlan make_upcat_backward_plan(const Geometry& g, int64_t low_channels, bool tf32, const Device& device);

}  // namespace pconv::cuda
