// The library's convolution with our passes around it, a part of the batch at a time: on a CPU. What a pass writes is
// then still in the cache when the convolution reads it, and the other way round, and memory for a part serves the next
// one too. The library itself gains most: a batch of large images costs it fresh pages for its results and for its own
// copies, which for a few images fit into memory that the process has.
#pragma once

#include "library.h"
#include "scratch.h"

#include <algorithm>
#include <tuple>
#include <vector>

namespace pconv {

// How many images a part has: all of them where parts would not pay. Every call of the library rearranges the weight,
// and starts its threads.
inline int64_t images_of_part(const Geometry& g, int64_t weight_numel, int64_t products_of_image) {
    constexpr int64_t products_of_thread = 20'000'000;  // half a millisecond
    constexpr int64_t weights = 8;                      // values of the images beside those of the weight
    if (g.n < 2 || bytes_of(g.dtype) < 4) return g.n;   // weight gradients of 16 bits are not added up
    const int64_t values = g.c * g.h * g.w + g.k * g.p * g.q;
    const int64_t least = std::max(
        products_of_thread * torch::stable::get_num_threads() / std::max<int64_t>(products_of_image, 1),
        weights * weight_numel / values);
    const int64_t parts = std::max<int64_t>(g.n / (least + 1), 1);
    return (g.n + parts - 1) / parts;
}

// Images of a batch from `first` on, and what belongs to them.
struct BatchPart {
    int64_t first, count;

    static BatchPart at(const Geometry& g, int64_t first, int64_t images) {
        return {first, std::min(images, g.n - first)};
    }
    Geometry of(Geometry g) const {
        g.n = count;
        return g;
    }
    Mask of(Mask mask) const {
        mask.bytes += first * mask.batch_step;
        return mask;
    }
    Ratio of(Ratio ratio, const Geometry& g) const {
        if (ratio.n == 1) return ratio;
        const int64_t image = ratio.groups * g.p * g.q * (g.dtype == DType::f64 ? 8 : 4);
        return {static_cast<char*>(ratio.values) + first * image, count, ratio.groups};
    }
    Tensor of(Tensor batch) const { return torch::stable::narrow(batch, 0, first, count); }
    Tensor start_of(Tensor scratch) const { return torch::stable::narrow(scratch, 0, 0, count); }
};

// Memory for the first `images` of a batch.
inline Tensor scratch_for(Tensor batch, int64_t images) {
    return scratch_beside(torch::stable::narrow(batch, 0, 0, images));
}

// The part's images with zeros in the holes.
template <class Passes>
Tensor masked_part(
    const Passes& passes, const Geometry& g, const BatchPart& part, const MaskBytes& mask, const Tensor& x,
    const Tensor& scratch) {
    Tensor masked = part.start_of(scratch);
    passes.copy_valid(part.of(g), part.of(mask.mask), part.of(x), masked);
    return masked;
}

// convolve(x) is laid out as the geometry says; y is written.
template <class Passes, class Convolve>
void forward_in_parts(
    const Passes& passes, const Geometry& g, int64_t images, const Tensor& x, const MaskBytes& mask, const Ratio& ratio,
    const void* bias, double negative_slope, const Tensor& y, const Convolve& convolve) {
    const Tensor scratch = mask.holes ? scratch_for(x, images) : x;
    for (int64_t first = 0; first < g.n; first += images) {
        const BatchPart part = BatchPart::at(g, first, images);
        const Tensor raw = convolve(mask.holes ? masked_part(passes, g, part, mask, x, scratch) : part.of(x));
        Tensor finished = part.of(y);
        passes.renormalise(part.of(g), part.of(ratio, g), bias, negative_slope, raw, finished);
    }
}

// backward(scaled, x): the gradients by x and by the weight, laid out. dx is written where it is wanted, sums (nullptr:
// not wanted) are added to; returns the gradient by the weight.
template <class Passes, class Backward>
Tensor backward_in_parts(
    const Passes& passes, const Geometry& g, int64_t images, const Tensor& upstream, const Tensor& x,
    const MaskBytes& mask, const Ratio& ratio, const MaybeTensor& dx, bool need_weight, double* sums,
    const Backward& backward) {
    const bool copied = mask.holes && need_weight;  // see composed_backward
    const Tensor gradients = scratch_for(upstream, images), scratch = copied ? scratch_for(x, images) : x;
    Tensor dw = no_gradient(x);
    std::vector<double> total;
    for (int64_t first = 0; first < g.n; first += images) {
        const BatchPart part = BatchPart::at(g, first, images);
        Tensor scaled = part.start_of(gradients);
        passes.scale_gradient(part.of(g), part.of(ratio, g), part.of(upstream), scaled, sums);
        const auto [of_input, of_weight] =
            backward(scaled, copied ? masked_part(passes, g, part, mask, x, scratch) : part.of(x));
        if (dx) {
            Tensor target = part.of(*dx);
            if (mask.holes)
                passes.copy_valid(part.of(g), part.of(mask.mask), of_input, target);
            else
                torch::stable::copy_(target, of_input);
        }
        if (!need_weight) continue;
        dw = of_weight;
        total.resize(dw.numel());
        passes.add(g, dw, total.data());
    }
    if (need_weight) passes.round(g, total, dw);
    return dw;
}

}  // namespace pconv
