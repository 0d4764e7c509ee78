// Copies without a wait of their own: TMA boxes, and cp.async handed over to an mbarrier. They finish late, in a
// random order, each as a ThreadSanitizer fiber of its own: only its mbarrier orders it before anything.
#include "hopper_internal.h"

#ifdef EMU_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace emu {
namespace {

constexpr int copies_capacity = 64, work_capacity = 4096, edge_count = 8192;

struct Work {
    bool is_tma;
    uint32_t destination, barrier;
    TensorMap map;
    int corner[3];
    PendingCopy copies[copies_capacity];
    int copy_count;
    Site site;
    Fiber* issuer;
    char* issue_edge;
};
Work pool[work_capacity];
int idle[work_capacity], idle_count, pending[work_capacity], pending_count;
char issue_edges[edge_count];
unsigned issued;

Work& issue(const Site& site, uint32_t barrier) {
    mbarrier_at(barrier, site);
    if (idle_count == 0) fail(&site, "more than %d asynchronous copies in flight", work_capacity);
    const int number = idle[--idle_count];
    pending[pending_count++] = number;
    Work& work = pool[number];
    work.site = site;
    work.barrier = barrier;
    work.issuer = running();
    work.copy_count = 0;
    work.issue_edge = &issue_edges[issued++ % edge_count];
    happens_before_release(work.issue_edge);
    return work;
}

int box_bytes(const TensorMap& map) { return map.box[0] * map.box[1] * map.box[2] * 2; }

void write_box(const Work& work) {
    const TensorMap& map = work.map;
    const int bytes = box_bytes(map), rows = map.box[1] * map.box[2], row_bytes = map.box[0] * 2;
    unpoison(shared_at(work.destination), bytes);
    touch(work.destination, bytes, true, work.site);
    for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < map.box[0]; ++column) {
            const int64_t at[3] = {
                work.corner[0] + column, work.corner[1] + row % map.box[1], work.corner[2] + row / map.box[1]};
            bool inside = true;
            int64_t offset = 0;
            for (int i = 0; i < 3; ++i) {
                inside &= at[i] >= 0 && at[i] < map.sizes[i];
                offset += at[i] * map.steps[i];
            }
            uint16_t element = 0;
            if (inside) __builtin_memcpy(&element, map.tensor + offset, 2);
            __builtin_memcpy(shared_at(swizzled(work.destination + row * row_bytes + column * 2)), &element, 2);
        }
    }
    async_write(work.destination, bytes);
}

void write_copies(Work& work) {
    for (int i = 0; i < work.copy_count; ++i) {
        const PendingCopy& copy = work.copies[i];
        uint8_t* const destination = static_cast<uint8_t*>(copy.destination);
        const uint32_t address = uint32_t(destination - shared_base) + shared_window;
        unpoison(destination, copy.bytes);
        touch(address, copy.bytes, true, work.site);
        for (int byte = 0; byte < copy.bytes; ++byte) destination[byte] = copy.data[byte];
        generic_write_by(work.issuer->linear, address, copy.bytes);
    }
}

void finish(Work& work) {
#ifdef EMU_TSAN
    void* const scheduler = __tsan_get_current_fiber();
    void* const fiber = __tsan_create_fiber(0);
    __tsan_switch_to_fiber(fiber, __tsan_switch_to_fiber_no_sync);
#endif
    happens_before_acquire(work.issue_edge);
    current = work.issuer;  // for error messages
    Mbarrier& barrier = mbarrier_at(work.barrier, work.site);
    if (work.is_tma) {
        write_box(work);
        bytes_arrived(barrier, box_bytes(work.map));
    } else {
        write_copies(work);
        arrive_at(barrier, 0, work.site);
    }
    current = nullptr;
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(scheduler, __tsan_switch_to_fiber_no_sync);
    __tsan_destroy_fiber(fiber);
#endif
}

// The sm_90 part joins the scheduler merely by being linked.
void block_starts() {
    reset_mbarriers();
    reset_proxies();
    reset_async_work();
    reset_wgmma();
}
void block_ends() {
    check_async_work_done();
    check_wgmma_done();
}
[[maybe_unused]] const bool joined = (async_hooks = {async_work_step, block_starts, block_ends}, true);

}  // namespace

void tma_load(uint32_t destination, const TensorMap& map, const int (&corner)[3], uint32_t barrier, const Site& site) {
    if (destination % 1024) fail(&site, "the destination 0x%x is not 1024-aligned", destination);
    const int bytes = box_bytes(map);
    touch(destination, bytes, true, site);
    for (int i = 0; i < bytes; ++i) shared_at(destination)[i] = 0xff;  // NaN until it has landed
    poison(shared_at(destination), bytes);
    Work& work = issue(site, barrier);
    work.is_tma = true;
    work.destination = destination;
    work.map = map;
    for (int i = 0; i < 3; ++i) work.corner[i] = corner[i];
}

void copies_arrive(uint32_t barrier, const Site& site) {
    CopyQueue& queue = running()->pending;
    Work& work = issue(site, barrier);
    work.is_tma = false;
    for (; queue.first < queue.last; ++queue.first) {
        if (work.copy_count == copies_capacity)
            fail(&site, "more than %d cp.async before one arrival", copies_capacity);
        work.copies[work.copy_count++] = queue.copies[queue.first % CopyQueue::capacity];
    }
}

// Once a process: a block that ends with work pending is an error, so every later one starts with all of it idle.
void reset_async_work() {
    if (idle_count == 0)
        for (int number = 0; number < work_capacity; ++number) idle[idle_count++] = number;
}

bool async_work_step(bool nothing_else_to_do) {
    if (pending_count == 0 || (!nothing_else_to_do && random_bits() % 64 != 0)) return false;
    const int chosen = random_bits() % pending_count, number = pending[chosen];
    pending[chosen] = pending[--pending_count];
    finish(pool[number]);
    idle[idle_count++] = number;
    return true;
}

void check_async_work_done() {
    if (pending_count)
        fail(&pool[pending[0]].site, "%d asynchronous copies still in flight at the end of the block", pending_count);
}

}  // namespace emu
