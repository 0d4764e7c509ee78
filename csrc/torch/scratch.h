// Memory for the time of a call: the copies that the passes around a convolution make, on a CPU.
//
// The first write to each page of fresh memory goes through the kernel: 11 ms for 32 MiB in pages of 4 KiB, as long as
// a convolution of them may take, and about 1 ms in pages of 2 MiB. So large blocks are mapped here in pages of 2 MiB
// where the system has them, and up to 64 MiB in all are kept for later calls (larger blocks are unmapped after each
// one). They do not come from malloc, whose heap would grow and shrink with every call: then the library's own tensors,
// which would have fitted into the heap as it was, are on fresh pages too.
#pragma once

#include "memory.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <mutex>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace pconv {

#if defined(__linux__) && defined(MADV_HUGEPAGE)

class ScratchBlocks {
  public:
    static constexpr size_t page = size_t(2) << 20, least = page / 2, kept_at_most = size_t(64) << 20;

    // `mapped` and a page more come from mmap; nullptr where the system has no memory.
    struct Block {
        void* mapped = nullptr;
        size_t size = 0;  // a multiple of the page
        void* begin() const {
            return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(mapped) + page - 1) / page * page);
        }
    };

    Block take(size_t bytes) {
        const size_t size = (bytes + page - 1) / page * page;
        // Nobody waits for the lock: another thread may have held it when the process was forked.
        if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock) {
            size_t best = count_;
            for (size_t i = 0; i < count_; ++i)
                if (kept_[i].size >= size && kept_[i].size <= 2 * size &&
                    (best == count_ || kept_[i].size < kept_[best].size))
                    best = i;
            if (best < count_) {
                const Block block = kept_[best];
                forget(best);
                return block;
            }
        }
        void* const mapped = mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) return {};
        const Block block{mapped, size};
        madvise(block.begin(), size, MADV_HUGEPAGE);  // a hint: where it fails the pages are small
        return block;
    }

    void give_back(Block block) {
        const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
        if (!lock || block.size > kept_at_most) return unmap(block);
        while (count_ == kept_.size() || bytes_kept_ + block.size > kept_at_most) {
            unmap(kept_[0]);
            forget(0);
        }
        kept_[count_++] = block;
        bytes_kept_ += block.size;
    }

  private:
    void forget(size_t index) {
        bytes_kept_ -= kept_[index].size;
        std::copy(kept_.begin() + index + 1, kept_.begin() + count_, kept_.begin() + index);
        --count_;
    }
    static void unmap(const Block& block) { munmap(block.mapped, block.size + page); }

    std::mutex mutex_;
    std::array<Block, kept_at_most / page> kept_;  // the oldest first
    size_t count_ = 0, bytes_kept_ = 0;
};

// Never destroyed, since tensors may outlive static objects.
inline ScratchBlocks& scratch_blocks = *new ScratchBlocks;

// Of the same shape, strides and dtype; `like` has no gaps. Values are not set.
inline Tensor scratch_beside(const Tensor& like) {
    const size_t bytes = size_t(like.numel()) * like.element_size();
    if (!like.is_cpu() || bytes < ScratchBlocks::least) return torch::stable::empty_like(like);
    const ScratchBlocks::Block block = scratch_blocks.take(bytes);
    if (!block.mapped) return torch::stable::empty_like(like);
    return torch::stable::from_blob(
        block.begin(), like.sizes(), like.strides(), like.device(), like.scalar_type(),
        [block](void*) { scratch_blocks.give_back(block); });
}

#else

inline Tensor scratch_beside(const Tensor& like) { return torch::stable::empty_like(like); }

#endif

}  // namespace pconv
