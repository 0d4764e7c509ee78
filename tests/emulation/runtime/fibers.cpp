// Stacks and the switch between them, and what the sanitizers must be told about both.
#include <sys/mman.h>

#include <cstdlib>

#include "internal.h"

#ifdef EMU_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMU_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace emu {
namespace {

constexpr size_t guard_bytes = 4096;
constexpr int protection = PROT_READ | PROT_WRITE, mapping = MAP_PRIVATE | MAP_ANONYMOUS;

// The scheduler's own side of every switch.
struct {
    void* stack_pointer;
    void *asan_fake_stack, *tsan_fiber;
    const void* stack_bottom;
    size_t stack_size;
#ifdef EMU_UCONTEXT
    ucontext_t context;
#endif
} scheduler;

}  // namespace

#ifndef EMU_UCONTEXT
// swapcontext asks the kernel about signals at every switch; this costs a fifth of it.
extern "C" void emu_switch_stacks(void** save, void* load);
asm(R"(
.text
.globl emu_switch_stacks
.hidden emu_switch_stacks
.type emu_switch_stacks,@function
emu_switch_stacks:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp,(%rdi)
    mov %rsi,%rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    ret
.size emu_switch_stacks,.-emu_switch_stacks
)");
#endif

void give_stack(Fiber& fiber) {
    if (fiber.stack) return;
    // A page below it that may not be touched: an overflow is a crash and not another thread's variable.
    void* const memory = mmap(nullptr, stack_bytes + guard_bytes, protection, mapping, -1, 0);
    if (memory == MAP_FAILED) fail(nullptr, "no memory for the threads' stacks");
    mprotect(memory, guard_bytes, PROT_NONE);
    fiber.stack = static_cast<uint8_t*>(memory) + guard_bytes;
}

void start_fiber(Fiber& fiber, void (*entry)()) {
    fiber.asan_fake_stack = nullptr;
    unpoison(fiber.stack, stack_bytes);
#ifdef EMU_TSAN
    // Fresh pages make TSan forget them: the next block's use of the same stack would look like a race.
    mmap(fiber.stack, stack_bytes, protection, mapping | MAP_FIXED, -1, 0);
    fiber.tsan_fiber = __tsan_create_fiber(0);
#endif
#ifdef EMU_UCONTEXT
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
#else
    // One word is left out at the top, so that entry() finds the alignment that a call would have left.
    void** top = reinterpret_cast<void**>(fiber.stack + stack_bytes) - 1;
    *--top = reinterpret_cast<void*>(entry);
    for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
    fiber.stack_pointer = top;
#endif
}

void end_fiber([[maybe_unused]] Fiber& fiber) {
#ifdef EMU_TSAN
    __tsan_destroy_fiber(fiber.tsan_fiber);
#endif
}

void remember_scheduler() {
#ifdef EMU_TSAN
    scheduler.tsan_fiber = __tsan_get_current_fiber();
#endif
}

void switch_to(Fiber& fiber) {
    current = &fiber;
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(&scheduler.asan_fake_stack, fiber.stack, stack_bytes);
#endif
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(fiber.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef EMU_UCONTEXT
    swapcontext(&scheduler.context, &fiber.context);
#else
    emu_switch_stacks(&scheduler.stack_pointer, fiber.stack_pointer);
#endif
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(scheduler.asan_fake_stack, nullptr, nullptr);
#endif
    current = nullptr;
}

void switch_to_scheduler(Fiber& fiber, [[maybe_unused]] bool for_good) {
#ifdef EMU_ASAN
    __sanitizer_start_switch_fiber(
        for_good ? nullptr : &fiber.asan_fake_stack, scheduler.stack_bottom, scheduler.stack_size);
#endif
#ifdef EMU_TSAN
    __tsan_switch_to_fiber(scheduler.tsan_fiber, __tsan_switch_to_fiber_no_sync);
#endif
#ifdef EMU_UCONTEXT
    swapcontext(&fiber.context, &scheduler.context);
#else
    emu_switch_stacks(&fiber.stack_pointer, scheduler.stack_pointer);
#endif
    arrived_on_fiber(fiber);
}

void arrived_on_fiber([[maybe_unused]] Fiber& fiber) {
#ifdef EMU_ASAN
    __sanitizer_finish_switch_fiber(fiber.asan_fake_stack, &scheduler.stack_bottom, &scheduler.stack_size);
#endif
}

}  // namespace emu
