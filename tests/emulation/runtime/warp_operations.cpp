// What the instructions of a warp compute once all lanes have handed in their registers.
//
// Fragment maps as PTX gives them, with group = lane / 4 and quad = lane % 4:
//   16-bit elements  A[group + 8 (r & 1)][2 quad + 8 (r >> 1) + half]   B[2 quad + 8 r + half][group]
//   tf32             A[group + 8 (r & 1)][quad + 4 (r >> 1)]            B[quad + 4 r][group]
//   fp32             D[group + 8 (r >> 1)][2 quad + (r & 1)]            r: register, half: its lower or upper part
#include "internal.h"

namespace emu {
namespace {

// An element's value from its bits. half through a table: decoding is in the innermost loop of every kernel.
float value_of_bf16(uint32_t code) { return bits_as<float>(code << 16); }
float value_of_f16(uint32_t code) {
    static const struct Table {
        float values[1 << 16];
        Table() {
            for (int code = 0; code < 1 << 16; ++code) values[code] = decode_float16(uint16_t(code), 10, 15);
        }
    } table;
    return table.values[code];
}
float value_of_tf32(uint32_t bits) { return bits_as<float>(bits & ~0x1fffu); }

struct Operands {
    double a[16][16];  // [m][k]
    double b[16][8];   // [k][n]: the innermost loop below runs along n, whose sums do not wait for each other
};

template <float (*value_of)(uint32_t)>
void gather_16_bit(MmaArguments* const* lanes, Operands& operands) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const int group = lane / 4, quad = lane % 4;
        for (int half = 0; half < 2; ++half) {
            for (int r = 0; r < 4; ++r)
                operands.a[group + 8 * (r & 1)][2 * quad + 8 * (r >> 1) + half] =
                    value_of(lanes[lane]->a[r] >> 16 * half & 0xffff);
            for (int r = 0; r < 2; ++r)
                operands.b[2 * quad + 8 * r + half][group] = value_of(lanes[lane]->b[r] >> 16 * half & 0xffff);
        }
    }
}

void gather_tf32(MmaArguments* const* lanes, Operands& operands) {
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const int group = lane / 4, quad = lane % 4;
        for (int r = 0; r < 4; ++r)
            operands.a[group + 8 * (r & 1)][quad + 4 * (r >> 1)] = value_of_tf32(lanes[lane]->a[r]);
        for (int r = 0; r < 2; ++r) operands.b[quad + 4 * r][group] = value_of_tf32(lanes[lane]->b[r]);
    }
}

template <void (*gather)(MmaArguments* const*, Operands&), int k_count>
void execute_mma(void* const* lane_arguments, const Fiber*) {
    MmaArguments* const* const lanes = reinterpret_cast<MmaArguments* const*>(lane_arguments);
    Operands operands;
    gather(lanes, operands);
    double sums[16][8];
    const auto sum_of = [&](int lane, int r) -> double& {
        return sums[lane / 4 + 8 * (r >> 1)][2 * (lane % 4) + (r & 1)];
    };
    for (int lane = 0; lane < warp_lanes; ++lane)
        for (int r = 0; r < 4; ++r) sum_of(lane, r) = lanes[lane]->d[r];
    for (int m = 0; m < 16; ++m)
        for (int k = 0; k < k_count; ++k)
            for (int n = 0; n < 8; ++n) sums[m][n] += operands.a[m][k] * operands.b[k][n];
    for (int lane = 0; lane < warp_lanes; ++lane)
        for (int r = 0; r < 4; ++r) lanes[lane]->d[r] = float(sum_of(lane, r));
}

void execute_ldmatrix(void* const* lane_arguments, const Fiber*) {
    LdmatrixArguments* const* const lanes = reinterpret_cast<LdmatrixArguments* const*>(lane_arguments);
    for (int lane = 0; lane < warp_lanes; ++lane) {
        const int group = lane / 4, quad = lane % 4;
        for (int tile = 0; tile < lanes[lane]->tiles; ++tile) {
            const auto element = [&](int row, int column) {
                return lanes[8 * tile + row]->row[column / 2] >> 16 * (column % 2) & 0xffff;
            };
            lanes[lane]->result[tile] = lanes[lane]->transposed
                                            ? element(2 * quad, group) | element(2 * quad + 1, group) << 16
                                            : element(group, 2 * quad) | element(group, 2 * quad + 1) << 16;
        }
    }
}

int shuffle_source(int lane, const ShuffleArguments& arguments) {
    const int first = lane & ~(arguments.width - 1), end = first + arguments.width;
    int source = lane;
    switch (arguments.kind) {
        case ShuffleKind::index: return first + (arguments.operand & (arguments.width - 1));
        case ShuffleKind::up: source = lane - arguments.operand; break;
        case ShuffleKind::down: source = lane + arguments.operand; break;
        case ShuffleKind::exclusive_or: source = lane ^ arguments.operand; break;
    }
    // Beyond its segment a lane keeps its own value; exclusive_or may reach down into an earlier one.
    if (source >= end || (source < first && arguments.kind != ShuffleKind::exclusive_or)) return lane;
    return source;
}

void execute_shuffle(void* const* lane_arguments, const Fiber* warp) {
    ShuffleArguments* const* const lanes = reinterpret_cast<ShuffleArguments* const*>(lane_arguments);
    for (int lane = 0; lane < warp_lanes; ++lane) {
        if (!lanes[lane]) continue;
        const int source = shuffle_source(lane, *lanes[lane]);
        if (!lanes[source]) fail(&warp[lane].waits_at, "lane %d reads lane %d, which is not in the mask", lane, source);
        lanes[lane]->result = lanes[source]->value;
    }
}

void execute_vote(void* const* lane_arguments, const Fiber*) {
    VoteArguments* const* const lanes = reinterpret_cast<VoteArguments* const*>(lane_arguments);
    uint32_t ballot = 0;
    for (int lane = 0; lane < warp_lanes; ++lane)
        if (lanes[lane] && lanes[lane]->predicate) ballot |= 1u << lane;
    for (int lane = 0; lane < warp_lanes; ++lane)
        if (lanes[lane]) lanes[lane]->ballot = ballot;
}

}  // namespace

// Of all of them only __syncwarp orders the lanes' accesses to memory.
const WarpOperation warp_barrier{nullptr, true};
const WarpOperation warp_shuffle{execute_shuffle, false};
const WarpOperation warp_vote{execute_vote, false};
const WarpOperation warp_ldmatrix{execute_ldmatrix, false};
const WarpOperation warp_mma_bf16{execute_mma<gather_16_bit<value_of_bf16>, 16>, false};
const WarpOperation warp_mma_f16{execute_mma<gather_16_bit<value_of_f16>, 16>, false};
const WarpOperation warp_mma_tf32{execute_mma<gather_tf32, 8>, false};

}  // namespace emu
