// masked_copy and scale_gradient for contiguous tensors with few, long planes, as volumes and series have them. The
// same results as the general ones; the sums of the bias gradient are added in another, as fixed, order.
#include "by_dtype.h"
#include "kernels.h"
#include "numeric.h"
#include "parallel.h"

#include <algorithm>
#include <vector>

namespace pconv::cpu {
namespace {

constexpr int64_t kPiece = 4096;     // positions of a job; what is spread for them stays in the first cache
constexpr int64_t kSumPiece = 1024;  // values that are summed before the partial sum is put aside

// Masked copy -------------------------------------------------------------------------------------------------

// Bytes of a mask as words of ones: a select is then one operation, whatever the channels.
template <class Word>
PCONV_INLINE void spread(const uint8_t* mask, int64_t count, Word* words) {
    for (int64_t i = 0; i < count; ++i) words[i] = mask[i] ? Word(~Word(0)) : Word(0);
}
template <class Word>
PCONV_INLINE void keep(const Word* x, const Word* words, int64_t count, Word* out) {
    for (int64_t i = 0; i < count; ++i) out[i] = Word(x[i] & words[i]);
}

template <class Word>
struct Copy;
#define PCONV_LOOPS(WORD)                                                                                 \
    PCONV_CLONES void spread_##WORD(const uint8_t* m, int64_t n, WORD* w) { spread<WORD>(m, n, w); }      \
    PCONV_CLONES void keep_##WORD(const WORD* x, const WORD* w, int64_t n, WORD* y) { keep(x, w, n, y); } \
    template <>                                                                                           \
    struct Copy<WORD> {                                                                                   \
        static constexpr auto spread = spread_##WORD;                                                     \
        static constexpr auto keep = keep_##WORD;                                                         \
    };
PCONV_LOOPS(uint16_t)
PCONV_LOOPS(uint32_t)
PCONV_LOOPS(uint64_t)
#undef PCONV_LOOPS

template <class Word>
void copy(const Geometry& g, const Mask& mask, const Word* x, Word* out) {
    const int64_t pixels = g.h * g.w, pieces = (pixels + kPiece - 1) / kPiece;
    parallel_for(g.n * pieces, grain_for(2 * kPiece * g.c * sizeof(Word)), [&](int64_t begin, int64_t end) {
        std::vector<Word> words(std::min(kPiece, pixels));
        for (int64_t job = begin; job < end; ++job) {
            const int64_t n = job / pieces, first = job % pieces * kPiece, count = std::min(kPiece, pixels - first);
            Copy<Word>::spread(mask.bytes + n * mask.batch_step + first, count, words.data());
            for (int64_t c = 0; c < g.c; ++c) {
                const int64_t offset = (n * g.c + c) * pixels + first;
                Copy<Word>::keep(x + offset, words.data(), count, out + offset);
            }
        }
    });
}

// Gradient ----------------------------------------------------------------------------------------------------

// scaled = ratio > 0 ? ratio * grad : 0; returns the sum of grad where ratio > 0, exact products of lanes of doubles.
template <class T>
PCONV_INLINE double scale_and_sum(const T* grad, const precise_t<T>* ratio, int64_t count, T* __restrict scaled) {
    using Real = precise_t<T>;
    constexpr int64_t kBlock = 128, kLanes = 16;
    double lanes[kLanes] = {0};
    int64_t i = 0;
    for (; i + kBlock <= count; i += kBlock) {
        // Picked first, summed after: g++ 12 vectorises a conditional sum of lanes wrongly.
        Real picked[kBlock];
        for (int64_t j = 0; j < kBlock; ++j) {
            const Real r = ratio[i + j], value = load(grad[i + j]);
            picked[j] = r > 0 ? value : 0;
            store(scaled[i + j], r > 0 ? value * r : 0);
        }
        for (int64_t j = 0; j < kBlock; j += kLanes)
            for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += picked[j + lane];
    }
    double total = 0;
    for (; i < count; ++i) {
        const Real r = ratio[i], value = load(grad[i]);
        total += r > 0 ? value : 0;
        store(scaled[i], r > 0 ? value * r : 0);
    }
    for (int64_t lane = 0; lane < kLanes; ++lane) total += lanes[lane];
    return total;
}

template <class T>
struct Gradient;
#define PCONV_LOOPS(T, NAME)                                                                       \
    PCONV_CLONES double scale_and_sum_##NAME(const T* g, const precise_t<T>* r, int64_t n, T* s) { \
        return scale_and_sum<T>(g, r, n, s);                                                       \
    }                                                                                              \
    template <>                                                                                    \
    struct Gradient<T> {                                                                           \
        static constexpr auto scale_and_sum = scale_and_sum_##NAME;                                \
    };
PCONV_EACH_TYPE(PCONV_LOOPS)
#undef PCONV_LOOPS

template <class T>
void scale(const Geometry& g, const Ratio& ratio, const T* grad, T* scaled, double* sums) {
    const int64_t pixels = g.p * g.q, pieces = (pixels + kSumPiece - 1) / kSumPiece, filters = g.k / ratio.groups;
    std::vector<double> partial(g.n * g.k * pieces);
    parallel_for(g.n * g.k, grain_for(2 * pixels * sizeof(T)), [&](int64_t begin, int64_t end) {
        for (int64_t plane = begin; plane < end; ++plane) {
            const int64_t n = ratio.n == 1 ? 0 : plane / g.k, group = plane % g.k / filters;
            const auto* ratios = static_cast<const precise_t<T>*>(ratio.values) + (n * ratio.groups + group) * pixels;
            for (int64_t piece = 0; piece < pieces; ++piece) {
                const int64_t first = piece * kSumPiece, offset = plane * pixels + first;
                partial[plane * pieces + piece] = Gradient<T>::scale_and_sum(
                    grad + offset, ratios + first, std::min(kSumPiece, pixels - first), scaled + offset);
            }
        }
    });
    for (int64_t k = 0; sums && k < g.k; ++k)
        for (int64_t n = 0; n < g.n; ++n)
            for (int64_t piece = 0; piece < pieces; ++piece) sums[k] += partial[(n * g.k + k) * pieces + piece];
}

}  // namespace

void masked_copy_planes(const Geometry& g, const Mask& mask, const void* x, void* out) {
    switch (bytes_of(g.dtype)) {
        case 2: return copy(g, mask, static_cast<const uint16_t*>(x), static_cast<uint16_t*>(out));
        case 4: return copy(g, mask, static_cast<const uint32_t*>(x), static_cast<uint32_t*>(out));
        default: return copy(g, mask, static_cast<const uint64_t*>(x), static_cast<uint64_t*>(out));
    }
}

void scale_gradient_planes(const Geometry& g, const Ratio& ratio, const void* grad, void* scaled, double* sums) {
    by_dtype(g.dtype, [&](auto kind) {
        using T = decltype(kind);
        scale<T>(g, ratio, static_cast<const T*>(grad), static_cast<T*>(scaled), sums);
    });
}

}  // namespace pconv::cpu
