// Runs a grid: blocks one after another, and within a block one thread at a time until it has to wait.
#include <algorithm>
#include <cstdio>
#include <mutex>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "internal.h"

namespace emu {

Thread* current;
uint8_t* shared_base;
size_t shared_size;
Block block;
AsyncHooks async_hooks;

namespace {

int policy = -1;
uint64_t seed, random_state;
const std::function<void()>* thread_body;
int ready[max_threads], ready_count, last_warp;  // ready: threads by number, the longest waiting first
char launch_start, launch_end;                   // for happens_before

int number_from_environment(const char* name, int otherwise) {
    const char* text = std::getenv(name);
    return text && *text ? std::atoi(text) : otherwise;
}

void choose_policy_once() {
    if (policy < 0)
        set_policy(number_from_environment("EMU_POLICY", oldest_first), number_from_environment("EMU_SEED", 0));
}

// Where in `ready` the next thread stands.
int choose_ready() {
    if (policy == random_lane) return random_bits() % ready_count;
    if (policy == newest_first) return ready_count - 1;
    if (policy == oldest_first) return 0;
    for (int i = 0; i < ready_count; ++i)
        if (block.fibers[ready[i]].warp == last_warp) return i;
    return policy == stay_in_warp ? int(random_bits() % ready_count) : ready_count - 1;
}

Fiber& take_ready() {
    const int chosen = choose_ready(), thread = ready[chosen];
    std::copy(ready + chosen + 1, ready + ready_count, ready + chosen);
    --ready_count;
    last_warp = block.fibers[thread].warp;
    return block.fibers[thread];
}

// The bottom of every fiber's stack.
void thread_main() {
    Fiber& fiber = *running();
    arrived_on_fiber(fiber);
    happens_before_acquire(&launch_start);
    (*thread_body)();
    check_copies_landed(fiber);
    happens_before_release(&launch_end);
    fiber.state = State::done;
    --block.live;
    block.live_lanes[fiber.warp] &= ~(1u << fiber.lane);
    thread_left();
    switch_to_scheduler(fiber, true);
    std::abort();  // a finished thread is never resumed
}

// Threads that wait in the same place share a line.
std::string who_waits_where() {
    std::string text;
    for (int i = 0; i < block.threads; ++i) {
        const Fiber &fiber = block.fibers[i], &previous = block.fibers[std::max(i - 1, 0)];
        const bool same = fiber.state == previous.state &&
                          (fiber.state == State::done ||
                           (fiber.waits_at.line == previous.waits_at.line && fiber.waits_for == previous.waits_for));
        if (i > 0 && same) continue;
        char line[400];
        if (fiber.state == State::done)
            std::snprintf(line, sizeof line, "\n  from thread %d on: ended", i);
        else
            std::snprintf(
                line, sizeof line, "\n  from thread %d on: at %s:%d %s (waits for 0x%x)", i, fiber.waits_at.file,
                fiber.waits_at.line, fiber.waits_at.operation, fiber.waits_for);
        text += line;
    }
    return text;
}

void start_thread(int number, dim3 grid, dim3 size, uint3 block_index) {
    Fiber& fiber = block.fibers[number];
    const unsigned linear = number;
    fiber.index = {linear % size.x, linear / size.x % size.y, linear / (size.x * size.y)};
    fiber.block = block_index;
    fiber.block_size = size;
    fiber.grid_size = grid;
    fiber.linear = number;
    fiber.lane = number % warp_lanes;
    fiber.warp = number / warp_lanes;
    fiber.pending.first = fiber.pending.last = fiber.pending.group = 0;
    block.live_lanes[fiber.warp] |= 1u << fiber.lane;
    start_fiber(fiber, thread_main);
    make_ready(fiber);
}

void run_block(dim3 grid, dim3 size, uint3 block_index) {
    block.live = block.threads;
    std::fill(block.live_lanes, block.live_lanes + max_warps, 0u);
    ready_count = 0;
    last_warp = -1;
    reset_barriers();
    if (async_hooks.block_starts) async_hooks.block_starts();
    happens_before_release(&launch_start);
    for (int i = 0; i < block.threads; ++i) start_thread(i, grid, size, block_index);
    while (block.live > 0) {
        if (async_hooks.step)
            while (async_hooks.step(ready_count == 0)) {
            }
        if (ready_count == 0)
            fail(
                nullptr, "deadlock in block (%u,%u,%u):%s", block_index.x, block_index.y, block_index.z,
                who_waits_where().c_str());
        switch_to(take_ready());
    }
    if (async_hooks.block_ends) async_hooks.block_ends();
    for (int i = 0; i < block.threads; ++i) end_fiber(block.fibers[i]);
}

// A permutation of the blocks: nothing may depend on their order.
struct BlockOrder {
    uint64_t count, step = 1, position = 0;

    explicit BlockOrder(uint64_t blocks) : count(blocks) {
        if (policy == newest_first) {
            step = count - 1;  // backwards
            position = count - 1;
        } else if (policy == random_lane || policy == stay_in_warp) {
            do step = random_bits() % count | 1;
            while (std::gcd(step, count) != 1);
        }
    }
    uint64_t next() {
        const uint64_t now = position;
        position = (position + step) % count;
        return now;
    }
};

// Shared memory of one block, filled so that what was never written reads as NaN or -1.
struct SharedMemory {
    void* bytes = nullptr;

    explicit SharedMemory(size_t size) {
        if (size && posix_memalign(&bytes, 1024, size)) fail(nullptr, "no memory for %zu bytes of shared memory", size);
    }
    SharedMemory(const SharedMemory&) = delete;
    SharedMemory(SharedMemory&& other) : bytes(std::exchange(other.bytes, nullptr)) {}
    ~SharedMemory() { std::free(bytes); }

    void install(size_t size) {
        shared_base = static_cast<uint8_t*>(bytes);
        shared_size = size;
        unpoison(bytes, size);
        std::fill(shared_base, shared_base + size, uint8_t(0xff));
    }
};

void run_blocks(dim3 grid, dim3 size, size_t shared_bytes) {
    std::vector<SharedMemory> memories;
#ifdef EMU_TSAN
    constexpr bool memory_for_each_block = true;  // blocks are unordered: one's memory is not the next one's
#else
    constexpr bool memory_for_each_block = false;
#endif
    const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    BlockOrder order(blocks);
    for (uint64_t i = 0; i < blocks; ++i) {
        if (memories.empty() || memory_for_each_block) memories.emplace_back(shared_bytes);
        memories.back().install(shared_bytes);
        const uint64_t number = order.next();
        run_block(
            grid, size,
            {unsigned(number % grid.x), unsigned(number / grid.x % grid.y), unsigned(number / grid.x / grid.y)});
    }
    happens_before_acquire(&launch_end);
    shared_base = nullptr;
    shared_size = 0;
}

}  // namespace

void set_policy(int new_policy, uint64_t new_seed) {
    if (new_policy < 0 || new_policy >= policy_count)
        fail(nullptr, "policy %d: expected 0 to %d", new_policy, policy_count - 1);
    policy = new_policy;
    seed = new_seed;
}

uint64_t random_bits() {  // xorshift64*
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state * 0x2545F4914F6CDD1DULL >> 16;
}

void make_ready(Fiber& fiber) {
    fiber.state = State::ready;
    ready[ready_count++] = fiber.linear;
}

void block_until_ready(Fiber& fiber, State state) {
    fiber.state = state;
    switch_to_scheduler(fiber, false);
}

void yield_ready(Fiber& fiber) {
    make_ready(fiber);
    switch_to_scheduler(fiber, false);
}

cudaError_t run_grid(dim3 grid, dim3 size, size_t shared_bytes, const std::function<void()>& body) {
    static std::mutex one_grid_at_a_time;
    const std::lock_guard<std::mutex> lock(one_grid_at_a_time);
    const uint64_t threads = uint64_t(size.x) * size.y * size.z;
    if (threads < 1 || threads > max_threads || size.z > 64) return cudaErrorInvalidConfiguration;
    static const size_t shared_limit = number_from_environment("EMU_SHARED_LIMIT", max_shared_bytes);
    if (shared_bytes > shared_limit) return cudaErrorInvalidValue;

    static Fiber pool[max_threads];
    block.fibers = pool;
    block.threads = int(threads);
    thread_body = &body;
    choose_policy_once();
    random_state = seed * 0x9E3779B97F4A7C15ULL + 88172645463325252ULL;
    for (int i = 0; i < block.threads; ++i) give_stack(pool[i]);
    remember_scheduler();
    run_blocks(grid, size, shared_bytes);
    return cudaSuccess;
}

}  // namespace emu
