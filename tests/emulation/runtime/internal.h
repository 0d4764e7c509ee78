// What the runtime's files share. None of this is compiled with a sanitizer, and nothing that runs on a fiber may
// allocate or call memcpy, memmove or memset: ThreadSanitizer intercepts those even here, takes the emulator's own
// bookkeeping for the kernel's, and reports false races between fibers.
#pragma once

#include <cstdint>

#include "../runtime.h"

#if !defined(__x86_64__) && !defined(EMU_UCONTEXT)
#define EMU_UCONTEXT
#endif
#ifdef EMU_UCONTEXT
#include <ucontext.h>
#endif

#ifdef EMU_TSAN
extern "C" {
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif

namespace emu {

constexpr int max_threads = 1024, warp_lanes = 32, max_warps = max_threads / warp_lanes, barrier_ids = 16;
constexpr size_t max_shared_bytes = 227 * 1024;

// An edge "everything before the release happens before everything after the acquire", for TSan alone. Only what
// orders memory on a device may make one: barriers, __syncwarp, the ends of a launch.
inline void happens_before_release([[maybe_unused]] void* object) {
#ifdef EMU_TSAN
    __tsan_release(object);
#endif
}
inline void happens_before_acquire([[maybe_unused]] void* object) {
#ifdef EMU_TSAN
    __tsan_acquire(object);
#endif
}

struct PendingCopy {
    alignas(16) uint8_t data[16];
    void* destination;
    int bytes, group;
    Site site;
};

// cp.async in flight of one thread; a plain array, see above.
struct CopyQueue {
    static constexpr int capacity = 256;
    PendingCopy copies[capacity];
    int first, last, group;
};

enum class State { ready, at_barrier, at_collective, at_mbarrier, at_warpgroup, done };

// A CUDA thread with a stack of its own.
struct Fiber : Thread {
    State state;
    Site waits_at;
    uint32_t waits_for;  // a barrier's id, the lanes' mask, or an mbarrier's address
    const WarpOperation* operation;
    void* lane_arguments;
    Reduction reduction;
    int reduced;
    CopyQueue pending;

    uint8_t* stack;
    void* stack_pointer;
    void *asan_fake_stack, *tsan_fiber;
#ifdef EMU_UCONTEXT
    ucontext_t context;
#endif
};
constexpr size_t stack_bytes = 256 << 10;

inline Fiber* running() { return static_cast<Fiber*>(current); }

// ---- fibers.cpp
void give_stack(Fiber& fiber);                    // once a process and fiber
void start_fiber(Fiber& fiber, void (*entry)());  // prepares it to run entry() at its first switch_to
void end_fiber(Fiber& fiber);
void switch_to(Fiber& fiber);  // from the scheduler; returns when the fiber blocks
void switch_to_scheduler(Fiber& fiber, bool for_good);
void arrived_on_fiber(Fiber& fiber);  // the first thing on a fiber that was switched to
void remember_scheduler();

// ---- scheduler.cpp: the running block
struct Block {
    Fiber* fibers;
    int threads, live;
    uint32_t live_lanes[max_warps];
};
extern Block block;
void make_ready(Fiber& fiber);
void block_until_ready(Fiber& fiber, State state);
void yield_ready(Fiber& fiber);  // ready at once, but other threads get their turn
uint64_t random_bits();

// ---- barriers.cpp, warp_operations.cpp
struct WarpOperation {
    void (*execute)(void* const* lanes /* [32], nullptr outside the mask */, const Fiber* warp /* [32] */);
    bool orders_memory;
};
void reset_barriers();
void thread_left();  // a thread ended: barriers may be complete now, or never

// ---- async_copies.cpp
void check_copies_landed(const Fiber& fiber);

// ---- Hopper's part, if it is linked in: asynchronous work between two threads' turns
struct AsyncHooks {
    bool (*step)(bool nothing_else_to_do);  // true: something happened, ask again
    void (*block_starts)();
    void (*block_ends)();
};
extern AsyncHooks async_hooks;

}  // namespace emu
