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

// In how many parts a batch is convolved; 1 where parts would not pay.
inline int64_t parts_of_batch(const Geometry& g, int64_t weight_numel, int64_t products_of_image) {
    // Every call of the library starts its threads, and rearranges the weight. A part has half a millisecond of work
    // for each thread, and eight times as many values as the weight.
    constexpr int64_t products_of_thread = 20'000'000, values_over_weight = 8;
    // 16 bits are left whole: gradients by the weight would be rounded part by part.
    if (g.n < 2 || bytes_of(g.dtype) < 4) return 1;
    const int64_t values_of_image = g.c * g.h * g.w + g.k * g.p * g.q;
    const int64_t for_threads =
        products_of_thread * torch::stable::get_num_threads() / std::max<int64_t>(products_of_image, 1);
    const int64_t for_weight = values_over_weight * weight_numel / values_of_image;
    return std::max<int64_t>(g.n / (std::max(for_threads, for_weight) + 1), 1);
}

// Images of a batch, and what belongs to them.
struct BatchPart {
    int64_t first, count;

    // The sizes of parts differ by one at most.
    static BatchPart at(const Geometry& g, int64_t index, int64_t parts) {
        const int64_t first = g.n * index / parts;
        return {first, g.n * (index + 1) / parts - first};
    }
    static int64_t most_images(const Geometry& g, int64_t parts) { return (g.n + parts - 1) / parts; }
    Geometry slice(Geometry g) const {
        g.n = count;
        return g;
    }
    Mask slice(Mask mask) const {
        mask.bytes += first * mask.batch_step;
        return mask;
    }
    Ratio slice(Ratio ratio, const Geometry& g) const {
        if (ratio.n == 1) return ratio;
        const int64_t image = ratio.groups * g.p * g.q * (g.dtype == DType::f64 ? 8 : 4);
        return {static_cast<char*>(ratio.values) + first * image, count, ratio.groups};
    }
    Tensor slice(Tensor batch) const { return torch::stable::narrow(batch, 0, first, count); }
    Tensor first_images(Tensor scratch) const { return torch::stable::narrow(scratch, 0, 0, count); }
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
    Tensor masked = part.first_images(scratch);
    passes.copy_valid(part.slice(g), part.slice(mask.mask), part.slice(x), masked);
    return masked;
}

// convolve(x) is laid out as the geometry says; y is written.
template <class Passes, class Convolve>
void forward_in_parts(
    const Passes& passes, const Geometry& g, int64_t parts, const Tensor& x, const MaskBytes& mask, const Ratio& ratio,
    const void* bias, double negative_slope, const Tensor& y, const Convolve& convolve) {
    const Tensor scratch = mask.holes ? scratch_for(x, BatchPart::most_images(g, parts)) : x;
    for (int64_t index = 0; index < parts; ++index) {
        const BatchPart part = BatchPart::at(g, index, parts);
        const Tensor raw = convolve(mask.holes ? masked_part(passes, g, part, mask, x, scratch) : part.slice(x));
        Tensor finished = part.slice(y);
        passes.renormalise(part.slice(g), part.slice(ratio, g), bias, negative_slope, raw, finished);
    }
}

// backward(scaled, x): the gradients by x and by the weight, laid out. dx is written where it is wanted, sums (nullptr:
// not wanted) are added to; returns the gradient by the weight.
template <class Passes, class Backward>
Tensor backward_in_parts(
    const Passes& passes, const Geometry& g, int64_t parts, const Tensor& upstream, const Tensor& x,
    const MaskBytes& mask, const Ratio& ratio, const MaybeTensor& dx, bool need_weight, double* sums,
    const Backward& backward) {
    const bool copied = mask.holes && need_weight;  // see composed_backward
    const int64_t images = BatchPart::most_images(g, parts);
    const Tensor gradients = scratch_for(upstream, images), scratch = copied ? scratch_for(x, images) : x;
    Tensor dw = no_gradient(x);
    std::vector<double> total;
    for (int64_t index = 0; index < parts; ++index) {
        const BatchPart part = BatchPart::at(g, index, parts);
        Tensor scaled = part.first_images(gradients);
        passes.scale_gradient(part.slice(g), part.slice(ratio, g), part.slice(upstream), scaled, sums);
        const auto [of_input, of_weight] =
            backward(scaled, copied ? masked_part(passes, g, part, mask, x, scratch) : part.slice(x));
        if (dx) {
            Tensor target = part.slice(*dx);
            if (mask.holes)
                passes.copy_valid(part.slice(g), part.slice(mask.mask), of_input, target);
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
