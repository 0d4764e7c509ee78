// Filters of the decoder's stage into phases, and the phases' gradient back into the filters: each the transpose of the
// other. Sums are made in fp32 (fp64 for doubles) and rounded once.
#include "by_dtype.h"
#include "kernels.h"
#include "numeric.h"
#include "parallel.h"
#include "phases.h"

namespace pconv::cpu {
namespace {

constexpr int64_t kLanes = 16;  // channels that are worked on side by side

// One filter's channels first <= c < first + count: nine values a channel in, sixteen out.
template <class T>
PCONV_INLINE void split_channels(const T* w, const int64_t step[4], int64_t count, int64_t channels, T* const out[4]) {
    precise_t<T> taps[3][3][kLanes];
    for (int64_t r = 0; r < 3; ++r)
        for (int64_t s = 0; s < 3; ++s) {
            const T* source = w + r * step[2] + s * step[3];
            if (step[1] == 1)  // a branch of its own, which is vectorised
                for (int64_t c = 0; c < count; ++c) taps[r][s][c] = load(source[c]);
            else
                for (int64_t c = 0; c < count; ++c) taps[r][s][c] = load(source[c * step[1]]);
        }
    for (int phase = 0; phase < 4; ++phase) {
        const int a = phase / 2, b = phase % 2;
        for (int tap = 0; tap < 4; ++tap) {
            precise_t<T> sums[kLanes] = {};
            for (int r = 0; r < 3; ++r)
                for (int s = 0; s < 3; ++s)
                    if (tap_of(a, r) == tap / 2 && tap_of(b, s) == tap % 2)
                        for (int64_t c = 0; c < count; ++c) sums[c] += taps[r][s][c];
            for (int64_t c = 0; c < count; ++c) store(out[phase][tap * channels + c], sums[c]);
        }
    }
}

template <class T>
PCONV_INLINE void fold_channels(
    const T* const in[4], int64_t tap_step, int64_t channel_step, int64_t count, T* dw, const int64_t step[4]) {
    for (int r = 0; r < 3; ++r)
        for (int s = 0; s < 3; ++s) {
            precise_t<T> sums[kLanes] = {};
            for (int phase = 0; phase < 4; ++phase) {
                const T* source = in[phase] + (2 * tap_of(phase / 2, r) + tap_of(phase % 2, s)) * tap_step;
                if (channel_step == 1)
                    for (int64_t c = 0; c < count; ++c) sums[c] += load(source[c]);
                else
                    for (int64_t c = 0; c < count; ++c) sums[c] += load(source[c * channel_step]);
            }
            for (int64_t c = 0; c < count; ++c) store(dw[r * step[2] + s * step[3] + c * step[1]], sums[c]);
        }
}

// Vectorised copies of both for each element type, as in renormalise.cpp.
template <class T>
struct Loops;
#define PCONV_LOOPS(T, NAME)                                                                                   \
    PCONV_CLONES void split_##NAME(const T* w, const int64_t step[4], int64_t n, int64_t c, T* const out[4]) { \
        split_channels<T>(w, step, n, c, out);                                                                 \
    }                                                                                                          \
    PCONV_CLONES void fold_##NAME(                                                                             \
        const T* const in[4], int64_t tap, int64_t channel, int64_t n, T* dw, const int64_t step[4]) {         \
        fold_channels<T>(in, tap, channel, n, dw, step);                                                       \
    }                                                                                                          \
    template <>                                                                                                \
    struct Loops<T> {                                                                                          \
        static constexpr auto split = split_##NAME;                                                            \
        static constexpr auto fold = fold_##NAME;                                                              \
    };
PCONV_EACH_TYPE(PCONV_LOOPS)
#undef PCONV_LOOPS

// Calls body(k, first channel, channels) for runs of at most kLanes low channels.
template <class Body>
void for_each_run(int64_t filters, int64_t channels, const Body& body) {
    parallel_for(filters, grain_for(channels * 25 * 4), [&](int64_t begin, int64_t end) {
        for (int64_t k = begin; k < end; ++k)
            for (int64_t c = 0; c < channels; c += kLanes) body(k, c, std::min(kLanes, channels - c));
    });
}

}  // namespace

void upcat_phases(
    DType dtype, int64_t filters, int64_t low_channels, const void* weight, const int64_t step[4], void* phases) {
    by_dtype(dtype, [&](auto kind) {
        using T = decltype(kind);
        for_each_run(filters, low_channels, [&](int64_t k, int64_t c, int64_t count) {
            T* out[4];
            for (int64_t phase = 0; phase < 4; ++phase)
                out[phase] = static_cast<T*>(phases) + (phase * filters + k) * 4 * low_channels + c;
            const T* source = static_cast<const T*>(weight) + k * step[0] + c * step[1];
            Loops<T>::split(source, step, count, low_channels, out);
        });
    });
}

void upcat_fold(
    DType dtype, int64_t filters, int64_t low_channels, const void* phases_grad, const int64_t phase_step[4], void* dw,
    const int64_t step[4]) {
    by_dtype(dtype, [&](auto kind) {
        using T = decltype(kind);
        for_each_run(filters, low_channels, [&](int64_t k, int64_t c, int64_t count) {
            const T* in[4];
            for (int64_t phase = 0; phase < 4; ++phase)
                in[phase] =
                    static_cast<const T*>(phases_grad) + (phase * filters + k) * phase_step[0] + c * phase_step[1];
            // The two rows (and columns) of a phase's taps lie phase_step[2] and [3] apart: one number a tap will do
            // where the second is half of the first, which a dense 2x2 window has in either layout.
            T* target = static_cast<T*>(dw) + k * step[0] + c * step[1];
            Loops<T>::fold(in, phase_step[3], phase_step[1], count, target, step);
        });
    });
}

}  // namespace pconv::cpu
