// The decoder stage's backward, which run_backward.cpp leaves to run_stage_backward.cpp.
#pragma once

#include "run.h"

namespace pconv::cuda {

int64_t stage_backward_workspace(const Backward& call, const Device& device);
Status run_stage_backward(const Backward& call, const Device& device, void* memory, cudaStream_t stream);

}  // namespace pconv::cuda
