// Where threads wait for each other: barriers of a block, and the meeting of a warp's lanes at a collective call.
#include <cstring>

#include "internal.h"

namespace emu {
namespace {

struct Barrier {
    int arrived, expected;  // expected 0: every thread of the block
    Site site;              // of the first arrival
    int count, any, all;    // of the predicates
    unsigned generation;
};
Barrier barriers[barrier_ids];

// Lanes that wait in a warp, filed under the lowest lane of their mask: two halves of a warp may wait separately.
uint32_t arrived_lanes[max_warps][warp_lanes];
unsigned warp_generation[max_warps];

// What happens_before is about. Two for each place, taken in turns: a thread that enters the next meeting early
// must not be ordered before a thread that has yet to leave this one.
char barrier_edges[barrier_ids][2], warp_edges[max_warps][2];

bool same_place(const Site& a, const Site& b) {
    return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0) && a.operation == b.operation;
}

int reduced(const Barrier& barrier, Reduction reduction) {
    if (reduction == Reduction::count) return barrier.count;
    return reduction == Reduction::any ? barrier.any : barrier.all;
}

void open(int id) {
    Barrier& barrier = barriers[id];
    for (int i = 0; i < block.threads; ++i) {
        Fiber& fiber = block.fibers[i];
        if (fiber.state != State::at_barrier || fiber.waits_for != uint32_t(id)) continue;
        fiber.reduced = reduced(barrier, fiber.reduction);
        make_ready(fiber);
    }
    barrier.arrived = 0;
    ++barrier.generation;
}

// A device may let all of this pass, or hang, or mix two barriers up: it is undefined there and an error here.
void check_convergence(const Barrier& barrier, int threads, const Site& site) {
    if (barrier.expected != threads || (threads == 0 && !same_place(barrier.site, site)))
        fail(
            &site, "divergent barrier: other threads of the block wait at %s:%d %s", barrier.site.file,
            barrier.site.line, barrier.site.operation);
}

void check_same_call(const Fiber& other, const WarpOperation& operation, uint32_t mask, const Site& site) {
    if (other.operation == &operation && other.waits_for == mask && same_place(other.waits_at, site)) return;
    fail(
        &site, "divergent warp: lane %d (mask 0x%08x) waits at %s:%d %s, this lane's mask is 0x%08x", other.lane,
        other.waits_for, other.waits_at.file, other.waits_at.line, other.waits_at.operation, mask);
}

}  // namespace

void reset_barriers() {
    std::memset(barriers, 0, sizeof barriers);
    std::memset(arrived_lanes, 0, sizeof arrived_lanes);
}

// A thread that has ended never arrives; with the others waiting, that is its mistake, not theirs.
void thread_left() {
    const Barrier& barrier = barriers[0];
    if (barrier.arrived == 0 || barrier.expected != 0) return;
    fail(
        nullptr, "this thread ends while %d threads of its block wait at %s:%d %s", barrier.arrived, barrier.site.file,
        barrier.site.line, barrier.site.operation);
}

int block_barrier(int id, int threads, int predicate, Reduction reduction, const Site& site) {
    Fiber& fiber = *running();
    if (id < 0 || id >= barrier_ids) fail(&site, "barrier %d: there are 16", id);
    if (threads % warp_lanes) fail(&site, "barrier %d for %d threads: not whole warps", id, threads);
    Barrier& barrier = barriers[id];
    if (barrier.arrived == 0) {
        barrier.site = site;
        barrier.expected = threads;
        barrier.count = barrier.any = 0;
        barrier.all = 1;
    } else {
        check_convergence(barrier, threads, site);
    }
    if (threads == 0 && block.live != block.threads)
        fail(&site, "a barrier of the block after %d of its threads have ended", block.threads - block.live);
    barrier.count += predicate != 0;
    barrier.any |= predicate != 0;
    barrier.all &= predicate != 0;

    char* const edge = &barrier_edges[id][barrier.generation & 1];
    happens_before_release(edge);
    fiber.waits_at = site;
    fiber.waits_for = id;
    fiber.reduction = reduction;
    if (++barrier.arrived == (threads ? threads : block.threads)) {
        fiber.reduced = reduced(barrier, reduction);
        open(id);
        yield_ready(fiber);  // the last to come is not the first to go on
    } else {
        block_until_ready(fiber, State::at_barrier);
    }
    happens_before_acquire(edge);
    return fiber.reduced;
}

void warp_collective(const WarpOperation& operation, uint32_t mask, void* lane_arguments, const Site& site) {
    Fiber& fiber = *running();
    Fiber* const warp = block.fibers + fiber.warp * warp_lanes;
    if (!(mask >> fiber.lane & 1)) fail(&site, "lane %d is not in its own mask 0x%08x", fiber.lane, mask);
    if (const uint32_t missing = mask & ~block.live_lanes[fiber.warp])
        fail(&site, "mask 0x%08x names lanes that have ended or never were: 0x%08x", mask, missing);
    fiber.waits_at = site;
    fiber.waits_for = mask;
    fiber.operation = &operation;
    fiber.lane_arguments = lane_arguments;

    uint32_t& arrived = arrived_lanes[fiber.warp][__builtin_ctz(mask)];
    if (arrived) check_same_call(warp[__builtin_ctz(arrived)], operation, mask, site);
    arrived |= 1u << fiber.lane;
    char* const edge = &warp_edges[fiber.warp][warp_generation[fiber.warp] & 1];
    if (operation.orders_memory) happens_before_release(edge);
    if (arrived == mask) {
        void* lanes[warp_lanes];
        for (int lane = 0; lane < warp_lanes; ++lane)
            lanes[lane] = mask >> lane & 1 ? warp[lane].lane_arguments : nullptr;
        if (operation.execute) operation.execute(lanes, warp);
        arrived = 0;
        if (operation.orders_memory) ++warp_generation[fiber.warp];
        for (int lane = 0; lane < warp_lanes; ++lane)
            if (mask >> lane & 1 && lane != fiber.lane) make_ready(warp[lane]);
        yield_ready(fiber);
    } else {
        block_until_ready(fiber, State::at_collective);
    }
    if (operation.orders_memory) happens_before_acquire(edge);
}

}  // namespace emu
