// mbarriers: a phase ends once all expected arrivals have come and all announced bytes have been written.
#include "hopper_internal.h"

namespace emu {
namespace {

FixedList<Mbarrier, 64> barriers;

void end_phase_if_complete(Mbarrier& barrier) {
    if (barrier.pending != 0 || barrier.missing_bytes != 0) return;
    ++barrier.phase;
    barrier.pending = barrier.arrivals;
    for (int i = 0; i < block.threads; ++i) {
        Fiber& fiber = block.fibers[i];
        if (fiber.state == State::at_mbarrier && fiber.waits_for == barrier.address) make_ready(fiber);
    }
}

}  // namespace

void reset_mbarriers() { barriers.count = 0; }

Mbarrier& mbarrier_at(uint32_t address, const Site& site) {
    for (Mbarrier& barrier : barriers)
        if (barrier.address == address) return barrier;
    fail(&site, "no mbarrier was initialised at 0x%x", address);
}

void arrive_at(Mbarrier& barrier, uint32_t expected_bytes, const Site& site) {
    happens_before_release(&barrier.edges[barrier.phase & 1]);
    if (barrier.pending == 0) fail(&site, "more arrivals than the %d that a phase has", barrier.arrivals);
    --barrier.pending;
    barrier.missing_bytes += expected_bytes;
    end_phase_if_complete(barrier);
}

void bytes_arrived(Mbarrier& barrier, uint32_t bytes) {
    happens_before_release(&barrier.edges[barrier.phase & 1]);
    barrier.missing_bytes -= bytes;  // below 0 where TMA is faster than the thread that announces the bytes
    end_phase_if_complete(barrier);
}

void mbarrier_init(uint32_t address, int arrivals, const Site& site) {
    if (address % 8) fail(&site, "the address 0x%x is not a multiple of 8", address);
    shared_pointer(address, 8, site);
    for (const Mbarrier& barrier : barriers)
        if (barrier.address == address) fail(&site, "the mbarrier at 0x%x is initialised a second time", address);
    barriers.add(&site, "mbarriers in a block") = {address, arrivals, arrivals, 0, 0, {}};
}

void mbarrier_arrive(uint32_t address, uint32_t expected_bytes, const Site& site) {
    arrive_at(mbarrier_at(address, site), expected_bytes, site);
}

void mbarrier_wait(uint32_t address, int parity, const Site& site) {
    Mbarrier& barrier = mbarrier_at(address, site);
    Fiber& fiber = *running();
    while ((barrier.phase & 1) == unsigned(parity)) {
        fiber.waits_at = site;
        fiber.waits_for = address;
        block_until_ready(fiber, State::at_mbarrier);
    }
    happens_before_acquire(&barrier.edges[parity]);
}

}  // namespace emu
