// cp.async: what one thread has in flight, in groups; and the memory that may not be touched meanwhile.
#include "internal.h"

#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace emu {

void copy_push(void* destination, const void* data, int bytes, const Site& site) {
    CopyQueue& queue = running()->pending;
    // A ring: a pipeline always has copies under way, so the queue may never run empty.
    if (queue.last - queue.first == CopyQueue::capacity)
        fail(&site, "more than %d cp.async of one thread in flight", CopyQueue::capacity);
    PendingCopy& copy = queue.copies[queue.last++ % CopyQueue::capacity];
    for (int i = 0; i < bytes; ++i) copy.data[i] = static_cast<const uint8_t*>(data)[i];
    copy.destination = destination;
    copy.bytes = bytes;
    copy.group = queue.group;
    copy.site = site;
}

void copy_commit() { ++running()->pending.group; }

bool copy_pop(int groups_in_flight, LandedCopy* landed) {
    CopyQueue& queue = running()->pending;
    if (queue.first == queue.last ||
        queue.copies[queue.first % CopyQueue::capacity].group >= queue.group - groups_in_flight)
        return false;
    const PendingCopy& copy = queue.copies[queue.first++ % CopyQueue::capacity];
    *landed = {copy.destination, copy.data, copy.bytes};
    return true;
}

void check_copies_landed(const Fiber& fiber) {
    const CopyQueue& queue = fiber.pending;
    if (queue.first == queue.last) return;
    fail(
        &queue.copies[queue.first % CopyQueue::capacity].site,
        "the thread ends with %d copies that it never waited for", queue.last - queue.first);
}

#ifdef EMU_ASAN
void poison(void* memory, size_t bytes) { __asan_poison_memory_region(memory, bytes); }
void unpoison(void* memory, size_t bytes) { __asan_unpoison_memory_region(memory, bytes); }
#else
void poison(void*, size_t) {}
void unpoison(void*, size_t) {}
#endif

}  // namespace emu
