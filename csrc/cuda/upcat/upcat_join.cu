// The decoder stage's input as an ordinary one, for what the fused kernels do not take: low doubled by nearest
// neighbours and put before the skip, and the two masks at full resolution. Offsets are 64-bit.
#include "../host/workspace.h"
#include "../indexing.cuh"
#include "../launch.cuh"
#include "../numeric.cuh"
#include "upcat.h"

namespace pconv::cuda {
namespace {

constexpr int threads = 256;

struct JoinArguments {
    const void *low, *skip;
    void* joined;  // [N, Cu + Cs, H, W]
    Strides low_strides, skip_strides, joined_strides;
    int64_t n, low_channels, channels, h, w;
    bool channels_last;
};

// Holes are copied with the rest: readers of the result select by the mask. Raw: data moves unchanged.
template <class Raw>
__global__ void upcat_join_kernel(const JoinArguments a) {
    const int64_t total = a.n * a.channels * a.h * a.w;
    for (int64_t item = first_item(); item < total; item += item_step()) {
        const Position at = unravel(item, a.channels_last, a.channels, a.h, a.w);
        const bool from_low = at.c < a.low_channels;
        const Position small{at.n, at.c, at.h / 2, at.w / 2};
        const Position own{at.n, at.c - a.low_channels, at.h, at.w};
        const Raw value = from_low ? static_cast<const Raw*>(a.low)[offset_of(a.low_strides, small)]
                                   : static_cast<const Raw*>(a.skip)[offset_of(a.skip_strides, own)];
        static_cast<Raw*>(a.joined)[offset_of(a.joined_strides, at)] = value;
    }
}

struct JoinMasksArguments {
    const uint8_t *low, *skip;    // nullptr: all valid
    int64_t low_step, skip_step;  // bytes from one image to the next, 0 where all share one
    uint8_t* joined;              // [batches, 2, H, W]
    int64_t batches, h, w;
};

__global__ void upcat_join_masks_kernel(const JoinMasksArguments a) {
    for (int64_t item = first_item(); item < a.batches * 2 * a.h * a.w; item += item_step()) {
        const Position at = unravel(item, false, 2, a.h, a.w);
        const int64_t small = at.h / 2 * (a.w / 2) + at.w / 2, own = at.h * a.w + at.w;
        const uint8_t* const mask = at.c == 0 ? a.low : a.skip;
        const int64_t place = at.c == 0 ? at.n * a.low_step + small : at.n * a.skip_step + own;
        a.joined[item] = !mask || mask[place] != 0;
    }
}

}  // namespace

Status upcat_join(const Layer& stage, void* joined, void* joined_mask, cudaStream_t stream) {
    constexpr const char* name = "upcat_join";
    const Geometry& g = stage.geometry;
    const int64_t low_channels = stage.low_channels, skip_channels = g.c - low_channels;
    if (joined_mask) {
        const JoinMasksArguments a{
            stage.mask.bytes,
            stage.skip_mask.bytes,
            stage.mask.batch_step,
            stage.skip_mask.batch_step,
            static_cast<uint8_t*>(joined_mask),
            stage.ratio_n,
            g.h,
            g.w};
        const Status status =
            launch(name, upcat_join_masks_kernel, grid_for(a.batches * 2 * a.h * a.w, threads), threads, 0, stream, a);
        if (!status.ok()) return status;
    }
    const JoinArguments a{
        stage.x,
        stage.skip,
        joined,
        dense(g.layout, low_channels, g.h / 2, g.w / 2),
        dense(g.layout, skip_channels, g.h, g.w),
        dense(g.layout, g.c, g.h, g.w),
        g.n,
        low_channels,
        g.c,
        g.h,
        g.w,
        g.layout == Layout::nhwc};
    const dim3 grid = grid_for(g.n * g.c * g.h * g.w, threads);
    if (g.dtype == DType::f64) return launch(name, upcat_join_kernel<uint64_t>, grid, threads, 0, stream, a);
    return by_element_size(g.dtype, name, [&](auto type) {
        return launch(name, upcat_join_kernel<typename decltype(type)::type>, grid, threads, 0, stream, a);
    });
}

}  // namespace pconv::cuda
