// Two ways into shared memory: ordinary accesses and cp.async (the generic proxy), TMA and wgmma (the async proxy).
// What was written through the first is seen through the second only after fence.proxy.async, by the writer or by
// the reader. Every 16 bytes remember their last generic write, every thread its last fence.
//
// Ordinary stores have no wrapper and are not seen here: operands that a kernel stores itself need a fence that
// nothing checks.
#include "hopper_internal.h"

#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#endif
#ifdef EMU_TSAN
extern "C" {
void __tsan_read_range(void*, unsigned long);
void __tsan_write_range(void*, unsigned long);
}
#endif

namespace emu {
namespace {

constexpr uint32_t chunk_bytes = 16;
struct Write {
    uint64_t time;  // 0: none since the block began, or the async proxy's own
    int thread;
};
Write writes[max_shared_bytes / chunk_bytes + 1];
uint64_t fenced[max_threads], now;

uint32_t chunk_of(uint32_t address) { return (address - shared_window) / chunk_bytes; }

}  // namespace

void generic_write_by(int thread, uint32_t address, int bytes) {
    for (uint32_t chunk = chunk_of(address); chunk <= chunk_of(address + bytes - 1); ++chunk)
        writes[chunk] = {++now, thread};
}

void generic_write(uint32_t address, int bytes) { generic_write_by(running()->linear, address, bytes); }

void async_write(uint32_t address, int bytes) {
    for (uint32_t chunk = chunk_of(address); chunk <= chunk_of(address + bytes - 1); ++chunk) writes[chunk].time = 0;
}

void fence_proxy() { fenced[running()->linear] = ++now; }

int unfenced_writer(uint32_t address) {
    const Write& write = writes[chunk_of(address)];
    if (write.time == 0 || fenced[write.thread] > write.time || fenced[running()->linear] > write.time) return -1;
    return write.thread;
}

void reset_proxies() {
    for (uint32_t chunk = 0; chunk * chunk_bytes < shared_size; ++chunk) writes[chunk] = {0, 0};
    for (uint64_t& time : fenced) time = 0;
    now = 0;
}

void touch(uint32_t address, int bytes, [[maybe_unused]] bool write, const Site& site) {
    [[maybe_unused]] uint8_t* const memory = shared_pointer(address, bytes, site);
#ifdef EMU_ASAN
    if (__asan_region_is_poisoned(memory, bytes))
        fail(&site, "touches shared memory at 0x%x that an unfinished asynchronous copy owns", address);
#endif
#ifdef EMU_TSAN
    if (write)
        __tsan_write_range(memory, bytes);
    else
        __tsan_read_range(memory, bytes);
#endif
}

}  // namespace emu
