// Threads come from torch's own pool, so that torch.set_num_threads holds for us too.
#pragma once

#include "../torch_abi.h"

#include <torch/csrc/stable/c/shim.h>
#include <torch/headeronly/util/shim_utils.h>

#include <algorithm>
#include <cstdint>

namespace pconv::cpu {

// Calls body(begin, end) over [0, count); a thread gets at least `grain` items.
template <class Body>
void parallel_for(int64_t count, int64_t grain, const Body& body) {
    auto call = [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); };
    TORCH_ERROR_CODE_CHECK(torch_parallel_for(
        0, count, std::max<int64_t>(grain, 1), call, const_cast<void*>(static_cast<const void*>(&body))));
}

// Items a thread should have at least, where each costs `bytes` of memory traffic: about 64 KiB a thread.
inline int64_t grain_for(int64_t bytes) { return std::max<int64_t>(65536 / std::max<int64_t>(bytes, 1), 1); }

}  // namespace pconv::cpu
