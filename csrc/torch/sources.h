// The operator's one or two sources and their masks as the kernels take them.
#pragma once

#include "checks.h"

namespace pconv {

// A mask argument as bytes, and what has to stay alive while they are used.
struct MaskBytes {
    MaybeTensor owner;
    Mask mask;
    int64_t images = 1;
    bool holes = false;  // known on a CPU alone

    // From the owner (n, 1|C, H, W).
    void set_bytes() {
        images = owner->size(0);
        const auto* const bytes = static_cast<const uint8_t*>(owner->const_data_ptr());
        mask = mask_of(bytes, images, owner->size(2) * owner->size(3), owner->size(1), 1);
    }
};

inline Tensor joined(Layout layout, const Tensor& first, const Tensor& second) {
    const int64_t channels = first.size(1), more = second.size(1);
    Tensor out = empty_in(layout, first, {first.size(0), channels + more, first.size(2), first.size(3)});
    Tensor halves[2] = {torch::stable::narrow(out, 1, 0, channels), torch::stable::narrow(out, 1, channels, more)};
    torch::stable::copy_(halves[0], first);
    torch::stable::copy_(halves[1], second);
    return out;
}

// Channels of a joined tensor as a tensor of their own: the outputs of an operator must not share memory.
inline Tensor channels_of(Tensor joined, const Tensor& source, int64_t first) {
    const auto sizes = source.sizes();
    Tensor out = empty_in(layout_of(source), source, Ints(sizes.begin(), sizes.end()));
    torch::stable::copy_(out, torch::stable::narrow(joined, 1, first, source.size(1)));
    return out;
}

inline MaskBytes joined(const Geometry& g, const Tensor& input, const MaskBytes& first, const MaskBytes& second) {
    MaskBytes result;
    if (!first.owner && !second.owner) return result;
    const int64_t images = first.images == 1 && second.images == 1 ? 1 : g.n;
    result.holes = first.holes || second.holes;
    Tensor bytes = empty_of(input, {images, 2, g.h, g.w}, ScalarType::Byte);
    for (const bool is_second : {false, true}) {
        const MaskBytes& mask = is_second ? second : first;
        Tensor half = torch::stable::narrow(bytes, 1, is_second, 1);
        if (mask.owner)
            torch::stable::copy_(half, *mask.owner);
        else
            torch::stable::fill_(half, 1);
    }
    result.owner = bytes;
    result.set_bytes();
    result.mask.second = int(input.size(1));
    return result;
}

// A skip of the input's size is joined with it; a decoder stage keeps its two sources.
struct Sources {
    Tensor x;
    MaybeTensor skip;
    MaskBytes mask, skip_mask;
    int64_t low_channels = 0;  // decoder stage: of x

    // One ratio for all output channels, but for groups whose channels have masks of their own. Mask and ratio keep the
    // masks' batch, so that a mask of batch 1 stays small; users get an expanded view.
    Ints ratio_size(const Geometry& g) const {
        const bool grouped = g.groups > 1 && mask.mask.blocks > 1;
        return {mask.images == 1 && skip_mask.images == 1 ? 1 : g.n, grouped ? g.groups : 1, g.p, g.q};
    }
};

// read_mask(result, mask, name): the bytes of a mask.
template <class ReadMask>
Sources read_sources(
    const Geometry& g, const Tensor& input, const MaybeTensor& mask, const MaybeTensor& skip,
    const MaybeTensor& skip_mask, bool upsample, const ReadMask& read_mask) {
    Sources sources{laid_out(input, g.layout), std::nullopt, {}, {}, 0};
    if (mask) {
        check_mask("mask", *mask, input, !skip);
        read_mask(sources.mask, *mask, "mask");
    }
    if (skip_mask) {
        PCONV_EXPECT(skip.has_value(), "skip_mask: expected none without a skip");
        check_mask("skip_mask", *skip_mask, *skip, false);
        read_mask(sources.skip_mask, *skip_mask, "skip_mask");
    }
    if (upsample) {
        sources.skip = laid_out(*skip, g.layout);
        sources.low_channels = input.size(1);
    } else if (skip) {
        sources.x = joined(g.layout, input, *skip);
        sources.mask = joined(g, input, sources.mask, sources.skip_mask);
        sources.skip_mask = {};
    }
    return sources;
}

// Unrequested outputs are empty. They must not alias.
inline Tensor no_gradient(const Tensor& like) { return empty_of(like, {0}, like.scalar_type()); }

inline ScalarType ratio_type(const Geometry& g) {
    return g.dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
}

}  // namespace pconv
