// New tensors, in the layout that results keep.
#pragma once

#include "../torch_abi.h"

#include "../geometry.h"

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace pconv {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Ints = std::vector<int64_t>;

inline Tensor empty_of(const Tensor& like, const Ints& size, ScalarType dtype) {
    return torch::stable::new_empty(like, size, dtype);
}

inline MemoryFormat format_of(Layout layout, size_t dimensions) {
    if (layout == Layout::nchw) return MemoryFormat::Contiguous;
    return dimensions == 5 ? MemoryFormat::ChannelsLast3d : MemoryFormat::ChannelsLast;
}

// A result of 32 MiB or more on a CPU is fresh memory from malloc, which gives it back to the system when it is freed:
// asked for in pages of 2 MiB (scratch.h). Smaller ones may lie in malloc's heap, which is left as it is.
inline Tensor on_large_pages(Tensor tensor) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    constexpr uintptr_t least = uintptr_t(32) << 20;
    static const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE));
    const uintptr_t bytes = uintptr_t(tensor.numel()) * tensor.element_size();
    if (tensor.is_cpu() && bytes >= least) {
        const uintptr_t begin = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
        const uintptr_t first = (begin + page - 1) / page * page, last = (begin + bytes) / page * page;
        madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // a hint
    }
#endif
    return tensor;
}

// In the layout that results keep.
inline Tensor empty_in(Layout layout, const Tensor& like, const Ints& size) {
    return on_large_pages(
        torch::stable::empty(
            size, like.scalar_type(), std::nullopt, like.device(), std::nullopt, format_of(layout, size.size())));
}

}  // namespace pconv
