// The decoder stage's filters in phases: [4 K][2][2][Cu] from the 3x3 weight's first Cu channels (upcat_phases.cuh).
// Reads 9 and writes 16 numbers a channel of a filter: 13 MB for 512 x 512 in half precision.
#include "../indexing.cuh"
#include "../launch.cuh"
#include "../numeric.cuh"
#include "upcat.h"
#include "upcat_phases.cuh"

namespace pconv::cuda {
namespace {

constexpr int threads = 128;

struct PhasesArguments {
    Strides strides;
    const void* weight;  // [K, C, 3, 3]
    void* phases;        // [4 K][2][2][padded]
    int64_t k, low_channels, padded;
};

// A thread makes the 16 sums of one channel of one filter; neighbouring threads have neighbouring channels.
template <class T>
__global__ void __launch_bounds__(threads) upcat_phases_kernel(const PhasesArguments a) {
    using Sum = accumulator_t<T>;
    for (int64_t item = first_item(); item < a.k * a.padded; item += item_step()) {
        const int64_t channel = item % a.padded, k = item / a.padded;
        Sum taps[9];
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)
            // Padding is zero, and nothing is read for it: the weight's next channels are the skip's.
            taps[tap] =
                channel < a.low_channels
                    ? Value<T>::load(
                          static_cast<const T*>(a.weight)[offset_of(a.strides, Position{k, channel, tap / 3, tap % 3})])
                    : Sum(0);
#pragma unroll
        for (int phase = 0; phase < 4; ++phase)
#pragma unroll
            for (int place = 0; place < 4; ++place) {
                const Sum sum = phase_sum<Sum>(
                    phase / 2, phase % 2, place / 2, place % 2, [&](int r, int s) { return taps[r * 3 + s]; });
                static_cast<T*>(a.phases)[((phase * a.k + k) * 4 + place) * a.padded + channel] = Value<T>::store(sum);
            }
    }
}

}  // namespace

Status upcat_phases(
    DType dtype, int64_t k, int64_t low_channels, int64_t padded, const void* weight, const Strides& weight_strides,
    void* phases, cudaStream_t stream) {
    constexpr const char* name = "upcat_phases";
    const PhasesArguments a{weight_strides, weight, phases, k, low_channels, padded};
    return by_type(dtype, name, [&](auto type) {
        return launch(
            name, upcat_phases_kernel<typename decltype(type)::type>, grid_for(k * padded, threads), threads, 0, stream,
            a);
    });
}

}  // namespace pconv::cuda
