// wgmma: what four warps hand to the tensor cores, and what they get back at the wait.
//
// Between issue and wait the accumulators are NaN and the operands belong to the tensor cores: they are read twice,
// at the issue and when the group retires, and must be the same bytes. Both readings are shown to the sanitizers.
// Accumulator i of thread t: row 16 (t / 32) + (t % 32) / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (t % 4) + i % 2.
#include "hopper_internal.h"

namespace emu {
namespace {

constexpr int group_threads = 128, group_warps = 4, max_accumulators = 128, k_count = 16, row_count = 64;

struct Operation {
    WgmmaCall call;
    float* accumulators;
    int group;
    uint64_t a_checksum, b_checksum;  // at the issue, by lane 0 of each warp
    Site site;
};
struct Saved {
    float* accumulators;
    int count;
    float values[max_accumulators];
};
struct ThreadState {
    FixedList<Operation, 64> queue, retired;
    FixedList<Saved, 4> saved;
    int group, groups_in_flight, registers;
    bool fenced;
};
ThreadState states[max_threads];
bool used;  // by this block: most kernels pay nothing for what they do not use
int arrived[max_threads / group_threads];
float a_values[row_count * k_count], b_values[256 * k_count];  // [row][k], [column][k]

// visit(address, row or column, k) for each 16 bytes of the operand's rows (columns) first to end.
template <class Visit>
void for_each_chunk(uint64_t descriptor, bool mn_major, int first, int end, const Site& site, const Visit& visit) {
    const uint32_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4;
    const uint32_t stride = (descriptor >> 32 & 0x3fff) << 4;
    if (descriptor >> 62 != 1) fail(&site, "the emulator knows the 128-byte swizzle only");
    // A start within a period of the swizzle needs the field base_offset, which no kernel here sets.
    if (start & 0x380) fail(&site, "the descriptor's start 0x%x is not at the beginning of eight rows", start);
    if (mn_major) {
        for (int k = 0; k < k_count; ++k)
            for (int i = first; i < end; i += 8)
                visit(swizzled(start + i / 64 * leading + i % 64 * 2 + k % 8 * 128 + k / 8 * stride), i, k);
    } else {
        for (int i = first; i < end; ++i)
            for (int k = 0; k < k_count; k += 8) visit(swizzled(start + i / 8 * stride + i % 8 * 128 + k * 2), i, k);
    }
}

uint64_t checksum(uint64_t descriptor, bool mn_major, int first, int end, const Site& site) {
    uint64_t hash = 1469598103934665603ull;
    for_each_chunk(descriptor, mn_major, first, end, site, [&](uint32_t address, int, int) {
        uint64_t words[2];
        __builtin_memcpy(words, shared_pointer(address, 16, site), 16);
        for (const uint64_t word : words) hash = (hash ^ word) * 1099511628211ull ^ hash >> 29;
    });
    return hash;
}

void show_sanitizers(uint64_t descriptor, bool mn_major, int first, int end, const Site& site) {
    for_each_chunk(
        descriptor, mn_major, first, end, site, [&](uint32_t address, int, int) { touch(address, 16, false, site); });
}

void check_fences(uint64_t descriptor, bool mn_major, int first, int end, const Site& site) {
    for_each_chunk(descriptor, mn_major, first, end, site, [&](uint32_t address, int row, int k) {
        const int writer = unfenced_writer(address);
        if (writer >= 0)
            fail(
                &site, "row %d, k %d of an operand (0x%x) was written by thread %d: no fence.proxy.async since", row, k,
                address, writer);
    });
}

void decode(const Operation& operation, uint64_t descriptor, bool mn_major, int end, float* values) {
    const bool is_bf16 = operation.call.element == WgmmaElement::bf16;
    for_each_chunk(descriptor, mn_major, 0, end, operation.site, [&](uint32_t address, int row, int k) {
        for (int i = 0; i < 8; ++i) {
            uint16_t code;
            __builtin_memcpy(&code, shared_at(address) + 2 * i, 2);
            const float value = is_bf16 ? bits_as<float>(uint32_t(code) << 16) : decode_float16(code, 10, 15);
            values[mn_major ? (row + i) * k_count + k : row * k_count + k + i] = value;
        }
    });
}

// Until the wait the accumulators are not the thread's: it would read NaN.
void take_accumulators(ThreadState& state, float* accumulators, int count, const Site& site) {
    for (const Saved& saved : state.saved)
        if (saved.accumulators == accumulators) return;
    Saved& saved = state.saved.add(&site, "arrays of accumulators in flight");
    saved.accumulators = accumulators;
    saved.count = count;
    for (int i = 0; i < count; ++i) {
        saved.values[i] = accumulators[i];
        accumulators[i] = NAN;
    }
}

void give_accumulators_back(ThreadState& state) {
    for (int i = 0; i < state.saved.count;) {
        const Saved& saved = state.saved[i];
        bool in_flight = false;
        for (const Operation& operation : state.queue) in_flight |= operation.accumulators == saved.accumulators;
        if (in_flight) {
            ++i;
            continue;
        }
        for (int j = 0; j < saved.count; ++j) saved.accumulators[j] = saved.values[j];
        state.saved.drop(i);
    }
}

void check_operands_unchanged(int first_thread, int number) {
    for (int warp = 0; warp < group_warps; ++warp) {
        const Operation& operation = states[first_thread + warp_lanes * warp].queue[number];
        const WgmmaCall& call = operation.call;
        if (checksum(call.a, call.a_mn_major, 16 * warp, 16 * warp + 16, operation.site) != operation.a_checksum)
            fail(&operation.site, "operand A changed in shared memory while the wgmma was in flight (warp %d)", warp);
        if (checksum(call.b, call.b_mn_major, 0, call.columns, operation.site) != operation.b_checksum)
            fail(&operation.site, "operand B changed in shared memory while the wgmma was in flight");
    }
}

void check_same_in_all_threads(int first_thread, int number, int groups_in_flight) {
    const WgmmaCall& first = states[first_thread].queue[number].call;
    for (int thread = first_thread; thread < first_thread + group_threads; ++thread) {
        ThreadState& state = states[thread];
        const Operation& operation = state.queue[number];
        const WgmmaCall& call = operation.call;
        if (state.groups_in_flight != groups_in_flight || state.queue.count <= number || call.a != first.a ||
            call.b != first.b || call.accumulate != first.accumulate || call.columns != first.columns)
            fail(&operation.site, "this wgmma differs between the threads of the warpgroup (thread %d)", thread);
    }
}

void multiply(ThreadState& state, int thread, const Operation& operation) {
    for (Saved& saved : state.saved) {
        if (saved.accumulators != operation.accumulators) continue;
        for (int i = 0; i < saved.count; ++i) {
            const int row = 16 * (thread / 32) + thread % 32 / 4 + 8 * (i / 2 % 2);
            const int column = 8 * (i / 4) + 2 * (thread % 4) + i % 2;
            double sum = operation.call.accumulate ? saved.values[i] : 0;
            for (int k = 0; k < k_count; ++k)
                sum += double(a_values[row * k_count + k]) * b_values[column * k_count + k];
            saved.values[i] = float(sum);
        }
    }
}

void retire(int first_thread, int groups_in_flight) {
    ThreadState& first = states[first_thread];
    int retiring = 0;
    while (retiring < first.queue.count && first.queue[retiring].group < first.group - groups_in_flight) ++retiring;
    for (int number = 0; number < retiring; ++number) {
        check_same_in_all_threads(first_thread, number, groups_in_flight);
        check_operands_unchanged(first_thread, number);
        const Operation& operation = first.queue[number];
        decode(operation, operation.call.a, operation.call.a_mn_major, row_count, a_values);
        decode(operation, operation.call.b, operation.call.b_mn_major, operation.call.columns, b_values);
        for (int thread = 0; thread < group_threads; ++thread)
            multiply(states[first_thread + thread], thread, states[first_thread + thread].queue[number]);
    }
    for (int thread = 0; thread < group_threads; ++thread) {
        ThreadState& state = states[first_thread + thread];
        if (thread % warp_lanes == 0)
            for (int number = 0; number < retiring; ++number)
                state.retired.add(nullptr, "wgmma retired at once") = state.queue[number];
        state.queue.drop_front(retiring);
        give_accumulators_back(state);
    }
}

int first_row(const Fiber& fiber) { return 16 * (fiber.warp % group_warps); }

}  // namespace

void wgmma_fence() {
    used = true;
    states[running()->linear].fenced = true;
}

void wgmma_issue(float* accumulators, const WgmmaCall& call, const Site& site) {
    const Fiber& fiber = *running();
    ThreadState& state = states[fiber.linear];
    if (!used || !state.fenced) fail(&site, "no wgmma.fence since the accumulators were the thread's own");
    take_accumulators(state, accumulators, call.columns / 2, site);
    Operation& operation = state.queue.add(&site, "wgmma in flight: is a wait missing?");
    operation = {call, accumulators, state.group, 0, 0, site};
    if (fiber.lane != 0) return;
    const int row = first_row(fiber);
    check_fences(call.a, call.a_mn_major, row, row + 16, site);
    check_fences(call.b, call.b_mn_major, 0, call.columns, site);
    show_sanitizers(call.a, call.a_mn_major, row, row + 16, site);
    show_sanitizers(call.b, call.b_mn_major, 0, call.columns, site);
    operation.a_checksum = checksum(call.a, call.a_mn_major, row, row + 16, site);
    operation.b_checksum = checksum(call.b, call.b_mn_major, 0, call.columns, site);
}

void wgmma_commit() { ++states[running()->linear].group; }

void wgmma_wait(int groups_in_flight, const Site& site) {
    Fiber& fiber = *running();
    ThreadState& state = states[fiber.linear];
    const int group = fiber.linear / group_threads, first_thread = group * group_threads;
    if (first_thread + group_threads > block.threads) fail(&site, "a warpgroup has 128 threads");
    fiber.waits_at = site;
    fiber.waits_for = group;
    state.groups_in_flight = groups_in_flight;
    if (++arrived[group] == group_threads) {
        arrived[group] = 0;
        retire(first_thread, groups_in_flight);
        for (int thread = first_thread; thread < first_thread + group_threads; ++thread)
            if (thread != fiber.linear) make_ready(block.fibers[thread]);
        yield_ready(fiber);
    } else {
        block_until_ready(fiber, State::at_warpgroup);
    }
    state.fenced = false;
    const int row = first_row(fiber);
    for (const Operation& operation : state.retired) {  // the tensor cores have read until here
        show_sanitizers(operation.call.a, operation.call.a_mn_major, row, row + 16, operation.site);
        show_sanitizers(operation.call.b, operation.call.b_mn_major, 0, operation.call.columns, operation.site);
    }
    state.retired.count = 0;
}

void set_registers(int count) {
    used = true;
    states[running()->linear].registers = count;
}

void reset_wgmma() {
    if (!used) return;
    used = false;
    for (int& count : arrived) count = 0;
    for (ThreadState& state : states) {
        state.queue.count = state.retired.count = state.saved.count = state.group = 0;
        state.fenced = false;
        state.registers = 0;  // not set
    }
}

void check_wgmma_done() {
    if (!used) return;
    long registers = 0;
    for (int thread = 0; thread < block.threads; ++thread) {
        ThreadState& state = states[thread];
        if (state.queue.count) fail(&state.queue[0].site, "thread %d ends with wgmma that it never waited for", thread);
        if (state.registers != states[thread / group_threads * group_threads].registers)
            fail(nullptr, "setmaxnreg: thread %d has another count than its warpgroup", thread);
        registers += state.registers;
    }
    if (registers > 65536) fail(nullptr, "setmaxnreg: %ld registers, an SM has 65536", registers);
}

}  // namespace emu
