// Into and out of the packed form, against plain loops. Data that only move have to come through to the bit.
#include "plain_support.h"

namespace {

// One block, or two that meet at `split`; from channel `first` on.
Packing make_packing(DType dtype, int64_t channels, int64_t split, int64_t first = 0) {
    Packing out;
    out.blocks = split > 0 ? 2 : 1;
    out.first[0] = int(first), out.first[out.blocks] = int(channels);
    if (split > 0) out.first[1] = int(split);
    for (int b = 0; b < out.blocks; ++b)
        out.start[b + 1] = out.start[b] + int(padded(out.first[b + 1] - out.first[b], dtype));
    return out;
}

// The channel at a place of the packed form, -1 in the padding.
int64_t channel_at(const Packing& packing, int64_t place) {
    for (int b = 0; b < packing.blocks; ++b)
        if (place >= packing.start[b] && place < packing.start[b + 1]) {
            const int64_t channel = packing.first[b] + place - packing.start[b];
            return channel < packing.first[b + 1] ? channel : -1;
        }
    return -1;
}

struct PackShape {
    int64_t n, c, h, w, split;
    Room room;
};

void check_pack_activation(DType dtype, Layout layout, Holes holes, const PackShape& shape) {
    const auto [n, c, h, w, split, room] = shape;
    const TestMask mask = make_mask(holes, n, c, h, w);
    const Packing packing = make_packing(dtype, c, split);
    const Tensor x = random_tensor(dtype, layout, n, c, h, w, room);
    for_each(x.sizes, [&](auto... at) {
        if (!mask.valid(at...)) x.set(at..., nan_value);
    });
    const int64_t channels = packing.start[packing.blocks];
    const Array out(dtype, n * h * w * channels);
    const Status status =
        pack_activation(dtype, n, c, h, w, packing, mask.view, x.data(), x.strides, out.data(), nullptr);
    Check check(
        "pack_activation",
        describe(
            "%s %s, mask %s, %dx%dx%dx%d split %d", name_of(dtype), layout_name(layout), name_of(holes), int(n), int(c),
            int(h), int(w), int(split)),
        status);
    for (int64_t i = 0; i < out.count; ++i) {
        const int64_t channel = channel_at(packing, i % channels), pixel = i / channels;
        const int64_t image = pixel / (h * w), y = pixel / w % h, column = pixel % w;
        const bool live = channel >= 0 && mask.valid(image, channel, y, column);
        check.exact("packed", out.get(i), live ? x.get(image, channel, y, column) : 0);
    }
}

struct WeightShape {
    int64_t k, c, r, s, split;
    Room room = {};     // of the weight: a part of the channels of a larger one
    int64_t first = 0;  // channel that is packed
};
const WeightShape weight_shapes[] = {
    {3, 40, 3, 3, 0},
    {5, 12, 2, 3, 5},
    {2, 3, 7, 7, 0},
    {1, 1, 1, 1, 0},
    {70, 9, 1, 1, 0},
    {3, 24, 2, 3, 0, {16}},
    {3, 16, 3, 1, 0, {8, 0, 1}},
    {4, 16, 1, 2, 0, {4}},
    {4, 24, 3, 3, 0, {}, 8},
    {2, 24, 2, 2, 16, {}, 8},
    {4, 24, 2, 2, 0, {}, 4},
    {3, 16, 3, 3, 0, {}, 1},
    {4, 12, 2, 2, 0, {4}}};

void check_pack_weight(DType dtype, Layout layout, const WeightShape& shape) {
    const auto [k, c, r, s, split, room, first] = shape;
    const Packing packing = make_packing(dtype, c, split, first);
    const int64_t channels = packing.start[packing.blocks], k_padded = padded(k, dtype), taps = r * s;
    const Tensor weight = random_tensor(dtype, layout, k, c, r, s, room);
    const Array out(dtype, k * taps * channels), turned(dtype, c * taps * k_padded);
    const std::string what =
        describe("%s %s %dx%dx%dx%d", name_of(dtype), layout_name(layout), int(k), int(c), int(r), int(s));
    Check check(
        "pack_weight", what,
        pack_weight(dtype, k, c, r, s, packing, false, k_padded, weight.data(), weight.strides, out.data(), nullptr));
    Check check_turned(
        "pack_weight transposed", what,
        pack_weight(dtype, k, c, r, s, packing, true, k_padded, weight.data(), weight.strides, turned.data(), nullptr));
    for (int64_t i = 0; i < out.count; ++i) {
        const int64_t channel = channel_at(packing, i % channels), tap = i / channels % taps;
        const double expected = channel < 0 ? 0 : weight.get(i / channels / taps, channel, tap / s, tap % s);
        check.exact("packed", out.get(i), expected);
    }
    for (int64_t i = 0; i < turned.count; ++i) {
        const int64_t to = i % k_padded, tap = i / k_padded % taps;
        const double expected = to < k ? weight.get(to, i / k_padded / taps, tap / s, tap % s) : 0;
        check_turned.exact("turned", turned.get(i), expected);
    }
}

// Floats added one after another: the kernels promise this very order, so the sums are the same to the bit. From 16
// splits on reduce_wgrad gives each of eight warps a share of them, and adds the shares in order.
float ordered_sum(const Array& partial, int64_t splits, int64_t step, int64_t index, int64_t shares = 1) {
    float total = 0;
    for (int64_t share = 0; share < shares; ++share) {
        float sum = 0;
        for (int64_t split = splits * share / shares; split < splits * (share + 1) / shares; ++split)
            sum += float(partial.get(split * step + index));
        total = share == 0 ? sum : total + sum;
    }
    return total;
}

double rounded(DType dtype, double value) {
    const Array one(dtype, 1);
    one.set(0, value);
    return one.get(0);
}

Array random_array(DType dtype, int64_t count) {
    const Array out(dtype, count);
    for (int64_t i = 0; i < count; ++i) out.set(i, random_value());
    return out;
}

void check_reduce_wgrad(DType dtype, Layout layout, int64_t splits, const WeightShape& shape) {
    const auto [k, c, r, s, split, room, first] = shape;
    if (first > 0) return;  // dw has all channels
    const Packing packing = make_packing(dtype, c, split);
    const int64_t channels = packing.start[packing.blocks], step = k * r * s * channels;
    const Array partial = random_array(DType::f32, splits * step);
    const Tensor dw = make_tensor(dtype, layout, k, c, r, s);
    std::vector<float> sums;  // before the call, which may use the partial sums as scratch
    for (int64_t i = 0; i < step; ++i) sums.push_back(ordered_sum(partial, splits, step, i, splits < 16 ? 1 : 8));
    const Status status = reduce_wgrad(
        dtype, k, c, r, s, packing, splits, reinterpret_cast<float*>(partial.data()), dw.data(), dw.strides, nullptr);
    Check check(
        "reduce_wgrad",
        describe(
            "%s %s %dx%dx%dx%d, %d splits", name_of(dtype), layout_name(layout), int(k), int(c), int(r), int(s),
            int(splits)),
        status);
    for (int64_t i = 0; i < step; ++i) {
        const int64_t channel = channel_at(packing, i % channels), tap = i / channels % (r * s);
        if (channel < 0) continue;
        const double got = dw.get(i / channels / (r * s), channel, tap / s, tap % s);
        check.exact("dw", got, rounded(dtype, sums[size_t(i)]));
    }
}

void check_finish_splits(DType dtype, Layout layout, Holes holes, bool forward, int64_t n, int64_t channels) {
    const int64_t h = 5, w = 9, splits = 3, pixels = n * h * w;
    const TestMask mask = make_mask(holes, n, channels, h, w);
    const Array partial = random_array(DType::f32, splits * pixels * channels);
    const Array bias = random_array(dtype, channels);
    const int64_t ratio_n = holes == Holes::one ? n : 1;
    const Array ratio(DType::f32, ratio_n * h * w);
    for (int64_t i = 0; i < ratio.count; ++i) ratio.set(i, chance(0.3) ? 0 : 1 + random_value() / 2);
    const auto live = [&](int64_t image, int64_t c, int64_t y, int64_t x) {
        return forward ? ratio.get(((ratio_n == 1 ? 0 : image) * h + y) * w + x) > 0 : mask.valid(image, c, y, x);
    };
    const Tensor out = make_tensor(dtype, layout, n, channels, h, w);
    const auto index = [&](int64_t image, int64_t c, int64_t y, int64_t x) {
        return ((image * h + y) * w + x) * channels + c;
    };
    for_each(out.sizes, [&](auto... at) {
        if (!live(at...)) partial.set(index(at...), nan_value);
    });
    const bool with_bias = forward && holes != Holes::two_blocks;
    const double negative_slope = !forward ? 1 : with_bias ? 0.2 : 0;
    const Status status = finish_splits(
        dtype, n, channels, h, w, splits, reinterpret_cast<const float*>(partial.data()),
        forward ? reinterpret_cast<const float*>(ratio.data()) : nullptr, ratio_n, with_bias ? bias.data() : nullptr,
        float(negative_slope), mask.view, out.data(), out.strides, nullptr);
    Check check(
        "finish_splits",
        describe(
            "%s %s %s, mask %s, %d channels", name_of(dtype), layout_name(layout), forward ? "fprop" : "dgrad",
            name_of(holes), int(channels)),
        status);
    for_each(out.sizes, [&](int64_t image, int64_t c, int64_t y, int64_t x) {
        double expected = 0, size = 0;
        if (live(image, c, y, x)) {
            expected = ordered_sum(partial, splits, pixels * channels, index(image, c, y, x));
            if (forward) expected *= ratio.get(((ratio_n == 1 ? 0 : image) * h + y) * w + x);
            if (with_bias) expected += bias.get(c);
            size = std::fabs(expected) + 2;
            if (expected < 0) expected *= negative_slope;
        }
        check.close("out", dtype, out.get(image, c, y, x), expected, size);
    });
}

}  // namespace

void test_pack_activation() {
    const PackShape shapes[] = {
        {2, 3, 5, 7, 0, {}},         {1, 72, 9, 8, 0, {}},  {1, 72, 9, 8, 0, {0, 0, 1}},  // in vectors, and off by one
        {2, 12, 3, 5, 5, {}},        {1, 32, 4, 3, 16, {}}, {2, 8, 3, 4, 0, {8, 2, 0}},   // blocks, a crop
        {1, 1, 1, 1, 0, {}},         {0, 3, 4, 4, 0, {}},   {1, 2, 37, 43, 0, {}},        // many tiles of few channels
        {2, 12, 3, 4, 0, {4, 0, 0}},  // vectors that only the larger tensor fills
    };
    for (DType dtype : fast_types)
        for (Layout layout : layouts)
            for (const PackShape& shape : shapes)
                for (Holes holes : {Holes::none, Holes::per_channel, Holes::per_channel_shared}) {
                    const bool large = shape.c * shape.h * shape.w > 1000;
                    if (large && (dtype == DType::f16 || holes == Holes::per_channel_shared)) continue;
                    if (few_cases && (holes != Holes::per_channel || shape.room.lead > 0)) continue;
                    check_pack_activation(dtype, layout, holes, shape);
                }
}

void test_pack_weight() {
    for (DType dtype : fast_types)
        for (Layout layout : layouts)
            for (const WeightShape& shape : weight_shapes) check_pack_weight(dtype, layout, shape);
}

void test_splits() {
    for (DType dtype : fast_types)
        for (Layout layout : layouts) {
            for (const WeightShape& shape : weight_shapes)
                for (int64_t splits : {1, 6, 19})
                    if (!few_cases || splits > 1) check_reduce_wgrad(dtype, layout, splits, shape);
            for (Holes holes : all_holes)
                for (bool forward : {true, false}) check_finish_splits(dtype, layout, holes, forward, 2, 40);
            check_finish_splits(dtype, layout, Holes::one, true, 3, 3);
            check_finish_splits(dtype, layout, Holes::one, true, 0, 3);
        }
}
