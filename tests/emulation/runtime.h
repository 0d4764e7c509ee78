// The emulator as kernels and drivers see it. The runtime behind it is compiled without sanitizers (see build.py);
// whatever touches a kernel's memory therefore lives in headers, where it is instrumented under the kernel's line.
#pragma once

#include <functional>

#include "cuda_types.h"

namespace emu {

// One CUDA thread.
struct Thread {
    uint3 index, block;
    dim3 block_size, grid_size;
    int linear, lane, warp;
};
extern Thread* current;  // the one that runs now; nullptr between threads

// ---- errors: one line that names block, thread, file and line, then exit status 97

// Where a wrapper was called: taken by its default arguments, so it is the kernel's line.
struct Site {
    const char* operation;
    const char* file;
    int line;
};
#define EMU_SITE const char *site_file = __builtin_FILE(), int site_line = __builtin_LINE()
#define EMU_HERE(operation) (emu::Site{operation, site_file, site_line})

[[noreturn]] void fail(const Site* site, const char* format, ...) __attribute__((format(printf, 2, 3)));

// ---- grids

// Which thread runs next where several could. Random orders alone hide some races from an unsanitized build
// (refilling a stage that is still read, for one): run more than one policy.
enum Policy { random_lane, newest_first, oldest_first, stay_in_warp, last_warp_first, policy_count };
void set_policy(int policy, uint64_t seed = 0);  // at the start: EMU_POLICY and EMU_SEED, else oldest_first and 0

// Refuses what a device refuses. Shared memory up to 227 KiB, as on sm_90; EMU_SHARED_LIMIT=101376 makes it the 99 KiB
// of sm_86 and sm_89.
cudaError_t run_grid(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread_body);

// ---- which kernels ran

void record_kernel(const void* function, const char* name);
// A line for every kernel launched so far: its offset in the binary, times, name. Where EMU_COVERAGE names a folder,
// every process writes such a file there as it ends, also when it ends in fail().
bool write_coverage(const char* path);

// ---- shared memory

extern uint8_t* shared_base;  // of the running block; exactly its size, so that ASan sees the first byte outside
extern size_t shared_size;
// Where 32-bit addresses begin. Not 0, as on a device: a forgotten base is an error.
constexpr uint32_t shared_window = 1024;

inline uint8_t* shared_pointer(uint32_t address, uint32_t bytes, const Site& site) {
    if (address < shared_window || address - shared_window + bytes > shared_size)
        fail(&site, "shared address 0x%x + %u is outside the block's %zu bytes", address, bytes, shared_size);
    return shared_base + (address - shared_window);
}

// What an asynchronous copy owns may not be touched: ASan reports it. Nothing in other builds.
void poison(void* memory, size_t bytes);
void unpoison(void* memory, size_t bytes);

// ---- barriers and warps

enum class Reduction { none, count, any, all };
// Barrier 0 with threads = 0 is __syncthreads: every thread of the block, from the same line.
int block_barrier(int id, int threads, int predicate, Reduction reduction, const Site& site);

// Blocks until every lane of the mask has called with its own arguments; the last one works for all.
struct WarpOperation;
void warp_collective(const WarpOperation& operation, uint32_t mask, void* lane_arguments, const Site& site);
extern const WarpOperation warp_barrier, warp_shuffle, warp_vote, warp_ldmatrix, warp_mma_bf16, warp_mma_f16,
    warp_mma_tf32;

enum class ShuffleKind { index, up, down, exclusive_or };
struct ShuffleArguments {
    uint64_t value, result;
    ShuffleKind kind;
    int operand, width;
};
struct VoteArguments {
    bool predicate;
    uint32_t ballot;
};
struct LdmatrixArguments {
    uint32_t row[4];  // the 16 bytes that this lane's address points to
    uint32_t result[4];
    int tiles;
    bool transposed;
};
struct MmaArguments {
    uint32_t a[4], b[2];
    float d[4];
};

// ---- cp.async: the current thread's queue. The data are put down at the wait, by the thread that issued the copy.

void copy_push(void* destination, const void* data, int bytes, const Site& site);
void copy_commit();
// The oldest copy that may no longer be in flight, or nullptr.
struct LandedCopy {
    void* destination;
    const void* data;
    int bytes;
};
bool copy_pop(int groups_in_flight, LandedCopy* landed);
// A write to shared memory that the tensor cores of sm_90 may only see after fence.proxy.async.
void generic_write(uint32_t address, int bytes);

}  // namespace emu
