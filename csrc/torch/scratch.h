// Memory for the time of a call: the copies that the passes around a convolution make, on a CPU.
//
// A large tensor is memory that the process has not had yet, and the first write to each page of it goes through the
// kernel: 11 ms for 32 MiB in pages of 4 KiB, which is what a convolution of them may take. Here large blocks come from
// the system in pages of 2 MiB, where it has them (about 1 ms), and a few are kept for the next call. They do not come
// from malloc, whose heap would grow and shrink with every call: then the library's own tensors, which would have
// fitted into memory already there, are fresh pages too.
#pragma once

#include "memory.h"

#include <cstdint>
#include <iterator>
#include <list>
#include <mutex>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace pconv {

#if defined(__linux__) && defined(MADV_HUGEPAGE)

class ScratchBlocks {
  public:
    static constexpr size_t page = size_t(2) << 20, least = page / 2, kept_at_most = size_t(64) << 20;

    // Never destroyed: tensors may outlive static objects.
    static ScratchBlocks& instance() {
        static auto* const blocks = new ScratchBlocks;
        return *blocks;
    }

    struct Block {
        void* mapped;  // from mmap, of `size` and a page more
        size_t size;   // a multiple of the page
        void* begin() const {
            return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(mapped) + page - 1) / page * page);
        }
    };

    // mapped is nullptr where the system has no memory.
    Block take(size_t bytes) {
        const size_t size = (bytes + page - 1) / page * page;
        // Whoever finds the blocks in use, or in use by another thread when the process was forked, does without.
        if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock) {
            auto best = kept_.end();
            for (auto block = kept_.begin(); block != kept_.end(); ++block)
                if (block->size >= size && block->size <= 2 * size && (best == kept_.end() || block->size < best->size))
                    best = block;
            if (best != kept_.end()) {
                const Block block = *best;
                kept_.erase(best);
                bytes_kept_ -= block.size;
                return block;
            }
        }
        void* const mapped = mmap(nullptr, size + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) return {nullptr, 0};
        const Block block{mapped, size};
        madvise(block.begin(), size, MADV_HUGEPAGE);  // whatever it answers: small pages hold the same values
        return block;
    }

    void give_back(Block block) {
        if (const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock); lock && block.size <= kept_at_most) {
            kept_.push_back(block);
            bytes_kept_ += block.size;
            while (bytes_kept_ > kept_at_most) {
                bytes_kept_ -= kept_.front().size;
                unmap(kept_.front());
                kept_.pop_front();
            }
            return;
        }
        unmap(block);
    }

  private:
    static void unmap(const Block& block) { munmap(block.mapped, block.size + page); }

    std::mutex mutex_;
    std::list<Block> kept_;  // the oldest first
    size_t bytes_kept_ = 0;
};

// Of the same shape, strides and dtype; `like` has no gaps. Values are not set.
inline Tensor scratch_beside(const Tensor& like) {
    const size_t bytes = size_t(like.numel()) * like.element_size();
    if (!like.is_cpu() || bytes < ScratchBlocks::least) return torch::stable::empty_like(like);
    const ScratchBlocks::Block block = ScratchBlocks::instance().take(bytes);
    if (!block.mapped) return torch::stable::empty_like(like);
    return torch::stable::from_blob(
        block.begin(), like.sizes(), like.strides(), like.device(), like.scalar_type(),
        [block](void*) { ScratchBlocks::instance().give_back(block); });
}

#else

inline Tensor scratch_beside(const Tensor& like) { return torch::stable::empty_like(like); }

#endif

}  // namespace pconv
