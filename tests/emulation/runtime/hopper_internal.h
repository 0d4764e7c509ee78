// What the sm_90 files of the runtime share.
#pragma once

#include "../runtime_hopper.h"
#include "internal.h"

namespace emu {

// A list without an allocator, see internal.h.
template <class T, int capacity>
struct FixedList {
    T items[capacity];  // static storage: all zero from the start
    int count;

    T& add(const Site* site, const char* what) {
        if (count == capacity) fail(site, "more than %d %s", capacity, what);
        return items[count++];
    }
    void drop_front(int dropped) {
        for (int i = dropped; i < count; ++i) items[i - dropped] = items[i];
        count -= dropped;
    }
    void drop(int at) {
        for (int i = at + 1; i < count; ++i) items[i - 1] = items[i];
        --count;
    }
    T* begin() { return items; }
    T* end() { return items + count; }
    T& operator[](int i) { return items[i]; }
};

// ---- mbarriers.cpp
struct Mbarrier {
    uint32_t address;
    int arrivals, pending;
    unsigned phase;
    long missing_bytes;
    char edges[2];  // for happens_before, one a parity
};
Mbarrier& mbarrier_at(uint32_t address, const Site& site);
void arrive_at(Mbarrier& barrier, uint32_t expected_bytes, const Site& site);
void bytes_arrived(Mbarrier& barrier, uint32_t bytes);
void reset_mbarriers();

// ---- proxies.cpp
// An access that the sanitizers see although this code is not instrumented.
void touch(uint32_t address, int bytes, bool write, const Site& site);
void generic_write_by(int thread, uint32_t address, int bytes);
void async_write(uint32_t address, int bytes);
// The thread of a generic write that the current thread's tensor cores may not see yet, or -1.
int unfenced_writer(uint32_t address);
void reset_proxies();

inline uint8_t* shared_at(uint32_t address) { return shared_base + (address - shared_window); }
inline uint32_t swizzled(uint32_t address) { return address ^ (address >> 3 & 0x70); }  // bits 4-6 ^= bits 7-9

// ---- async_work.cpp, wgmma.cpp
void reset_async_work();
bool async_work_step(bool nothing_else_to_do);
void check_async_work_done();
void reset_wgmma();
void check_wgmma_done();

}  // namespace emu
