// Ratios and new masks of windows over two or three axes, of ordinary and of transposed convolutions (windows.h).
// Integers throughout, so that no order of summation matters.
#include "../indexing.cuh"
#include "../kernels.h"
#include "../launch.cuh"

namespace pconv::cuda {
namespace {

constexpr int threads = 256;
constexpr int windows_per_block = warp_threads;
constexpr int slices = threads / windows_per_block;

struct OutputPlace {
    int64_t n, group, at[max_axes];
};

PCONV_DEV OutputPlace output_place(const WindowsRatio& a, int64_t item) {
    OutputPlace place;
    for (int axis = max_axes - 1; axis >= 0; --axis) {
        place.at[axis] = item % a.windows.axis[axis].out;
        item /= a.windows.axis[axis].out;
    }
    place.group = item % a.ratio_groups;
    place.n = item / a.ratio_groups;
    return place;
}

// How many positions one row of a window, its taps t and r of the first two axes, finds valid in a block of the mask.
PCONV_DEV int64_t valid_in_row(const WindowsRatio& a, const OutputPlace& place, int64_t block, int64_t t, int64_t r) {
    const Windows& w = a.windows;
    const int64_t depth = source_of(w.axis[0], w.transposed, place.at[0], t);
    const int64_t row = source_of(w.axis[1], w.transposed, place.at[1], r);
    if (depth < 0 || row < 0) return 0;
    const int64_t first =
        place.n * a.mask.batch_step + block * a.mask.plane + (depth * w.axis[1].in + row) * w.axis[2].in;
    int64_t valid = 0;
    for (int64_t s = 0; s < w.axis[2].window; ++s) {
        const int64_t column = source_of(w.axis[2], w.transposed, place.at[2], s);
        if (column < 0) continue;
        valid += a.mask.bytes == nullptr || a.mask.bytes[first + column] != 0;
    }
    return valid;
}

// A lane is a window, a warp a slice of its rows in all blocks of the mask: a mask a channel gives thousands of rows.
template <class Real>
__global__ void windows_ratio_kernel(const WindowsRatio a) {
    PCONV_DYN_SMEM(shared);
    int64_t* counts = reinterpret_cast<int64_t*>(shared);  // [slices, windows_per_block]
    const Windows& w = a.windows;
    const int lane = int(threadIdx.x) % windows_per_block, slice = int(threadIdx.x) / windows_per_block;
    const int64_t total = a.ratio_n * a.ratio_groups * w.axis[0].out * w.axis[1].out * w.axis[2].out;
    const bool per_channel = a.mask.blocks > 1;
    // One block stands for all channels of a group. A mask a channel without groups has all of them in each window.
    const int64_t blocks = per_channel ? a.mask.blocks / a.ratio_groups : 1, weight = per_channel ? 1 : w.channels;
    const int64_t rows = blocks * w.axis[0].window * w.axis[1].window;
    for (int64_t start = int64_t(blockIdx.x) * windows_per_block; start < total;
         start += int64_t(gridDim.x) * windows_per_block) {
        const int64_t item = start + lane;
        const OutputPlace place = output_place(a, item < total ? item : start);
        int64_t count = 0;
        for (int64_t row = slice; row < rows; row += slices) {
            const int64_t r = row % w.axis[1].window, rest = row / w.axis[1].window;
            const int64_t t = rest % w.axis[0].window, block = rest / w.axis[0].window;
            count += weight * valid_in_row(a, place, (per_channel ? place.group * blocks : 0) + block, t, r);
        }
        counts[slice * windows_per_block + lane] = count;
        __syncthreads();
        if (slice == 0 && item < total) {
            for (int other = 1; other < slices; ++other) count += counts[other * windows_per_block + lane];
            const int64_t full = full_count(w, place.at[0], place.at[1], place.at[2]);
            static_cast<Real*>(a.ratio)[item] = count > 0 ? Real(full) / Real(count) : Real(0);
            a.new_mask[item] = count > 0;
        }
        __syncthreads();  // before the next windows' counts take their place
    }
}

}  // namespace

Status windows_ratio(const WindowsRatio& a, cudaStream_t stream) {
    constexpr const char* name = "windows_ratio";
    const Axis* axis = a.windows.axis;
    const dim3 grid = grid_for(a.ratio_n * a.ratio_groups * axis[0].out * axis[1].out * axis[2].out, windows_per_block);
    const size_t smem = threads * sizeof(int64_t);
    if (a.windows.dtype == DType::f64)
        return launch(name, windows_ratio_kernel<double>, grid, threads, smem, stream, a);
    return launch(name, windows_ratio_kernel<float>, grid, threads, smem, stream, a);
}

}  // namespace pconv::cuda
