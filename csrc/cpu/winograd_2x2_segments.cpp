// Which layers Winograd's F(2x2, 3x3) serves, and their inputs as segments of it (winograd_2x2.h).
#include "winograd_2x2.h"

namespace pconv::cpu {
namespace {

// One axis of the window for pixels of one parity: window position r reads pixel stride * p + r - pad.
struct Axis {
    int parity;
    int taps[3] = {-1, -1, -1};
    unsigned points = 0;

    Axis(int64_t window, int64_t pad, int64_t stride, int parity, bool adjoint) : parity(parity) {
        for (int64_t r = 0; r < window; ++r) {
            const int64_t offset = r - pad - parity + 2 * stride;  // not negative
            if (offset % stride == 0) taps[offset / stride - 1] = int(r);
        }
        if (adjoint) std::swap(taps[0], taps[2]);
        points = (taps[0] >= 0 ? 1u : 0u) | 6u | (taps[2] >= 0 ? 8u : 0u);
    }
};

bool has_room(int64_t window, int64_t pad, int64_t stride) {
    return window >= stride + 1 && pad <= stride && window - 1 - pad <= 2 * stride - 1;
}

Segment segment_of(const WinogradSource& source, int64_t channels, int64_t height, int64_t width) {
    Segment result;
    result.part.channels = result.pixel = channels;
    result.x = source.x, result.y = source.dx;
    result.valid = source.mask.bytes, result.valid_step = source.mask.batch_step;
    result.height = height, result.width = width;
    return result;
}

}  // namespace

bool takes_winograd_2x2(const Geometry& g, int64_t low_channels) {
    const int64_t stride = g.stride_h;
    return has_winograd() && g.dtype == DType::f32 && g.layout == Layout::nhwc && g.groups == 1 &&
           g.stride_w == stride && (stride == 1 || stride == 2) && g.dil_h == 1 && g.dil_w == 1 &&
           has_room(g.r, g.pad_h, stride) && has_room(g.s, g.pad_w, stride) && g.n * g.p * g.q * g.k * g.c > 0 &&
           (stride == 1 || g.c % kMaxLanes == 0) && low_channels % kMaxLanes == 0;
}

bool pays_winograd_2x2(const Geometry& g, int64_t low_channels) {
    // With fewer filters the transforms cost more than the products save. With fewer channels it would still be faster,
    // but a direct sum has less to round then, and the error of windows that see few valid pixels is above twice its.
    constexpr int64_t kLeastFilters = 16, kLeastChannels = 48, kLeastChannelsStrided = 64;
    // Measured: a product, with its share of the transforms, takes half as long again as one of a direct convolution,
    // and the transform of one filter of one segment in a far memory as long as so many of those. A 3x3 window with
    // stride 2 (25 points for 36 products) is then left to the library.
    constexpr double kPointCost = 1.5, kFilterCost = 1000;
    if (g.k < kLeastFilters || g.c < (g.stride_h == 1 ? kLeastChannels : kLeastChannelsStrided)) return false;
    const int64_t tiles = g.n * ((g.p + 1) / 2) * ((g.q + 1) / 2);
    int64_t products = 0, filters = 0;  // for one output channel
    for (const Segment& each : input_segments(g, {{}, {}, low_channels}, false)) {
        int points = 0;
        for (int point = 0; point < kPoints; ++point) points += each.needs(point);
        products += points * each.part.channels, filters += each.part.channels;
    }
    const double padding = double(round_up(g.k, kMaxLanes)) / double(g.k);
    const double saved = double(4 * g.r * g.s * g.c) - kPointCost * padding * double(products);
    return saved * double(tiles) > kFilterCost * double(filters);
}

Segments input_segments(const Geometry& g, const WinogradSources& sources, bool adjoint) {
    Segments result;
    if (sources.low_channels) {
        Segment low = segment_of(sources.low, sources.low_channels, g.h / 2, g.w / 2);
        low.doubled = low.part.sparse = true;
        low.part.row_points = low.part.column_points = 0b1011;
        if (adjoint) std::swap(low.part.rows[0], low.part.rows[2]), std::swap(low.part.columns[0], low.part.columns[2]);
        result.add(low);
    }
    const int64_t channels = g.c - sources.low_channels, stride = g.stride_h;
    // Four parities in a circle, begun so that those which share a point lie side by side: with a tap at the end that
    // odd pixels lack (5x5 windows) the even ones in the middle, otherwise (3x3) the odd ones.
    const bool even_first = Axis(g.r, g.pad_h, stride, 0, false).points & 8u;
    const int order[4][2] = {{0, 1}, {0, 0}, {1, 0}, {1, 1}};
    for (int i = 0; i < stride * stride; ++i) {
        const int flip = even_first || stride == 1 ? 0 : 1;
        const int* parity = order[stride == 1 ? 1 : i];
        const Axis rows(g.r, g.pad_h, stride, parity[0] ^ flip, adjoint);
        const Axis columns(g.s, g.pad_w, stride, parity[1] ^ flip, adjoint);
        Segment full = segment_of(sources.full, channels, g.h, g.w);
        full.part.weight_first = sources.low_channels;
        std::copy_n(rows.taps, 3, full.part.rows);
        std::copy_n(columns.taps, 3, full.part.columns);
        full.part.row_points = rows.points, full.part.column_points = columns.points;
        full.row = rows.parity, full.column = columns.parity, full.step = int(stride);
        result.add(full);
    }
    return result;
}

}  // namespace pconv::cpu
