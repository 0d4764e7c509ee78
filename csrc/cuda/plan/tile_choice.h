// Which tile serves a product, and into how many splits its reduction is shared out.
#pragma once

#include "plan.h"

namespace pconv::cuda {

// The product's sizes. Rows of dgrad are counted for its largest parity class.
struct Extent {
    int64_t grid_h, grid_w, classes, channels, reduction;
};

// fprop, dgrad and upcat, of n images. steps: of the K loop.
void choose_gemm_tile(Plan& plan, Pass pass, const Extent& extent, int64_t n, const Device& device, int64_t steps);

// chunk: channels in 16 bytes.
void choose_wgrad_tile(Plan& plan, const Geometry& g, const Device& device, int64_t chunk);

}  // namespace pconv::cuda
