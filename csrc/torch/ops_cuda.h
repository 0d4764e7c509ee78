// What the Python module of the CUDA operators sets, and the fallback of devices that are too old.
#pragma once

#include "checks.h"

#include <array>
#include <map>
#include <string>
#include <tuple>
#include <type_traits>

namespace pconv::cuda {

// 1 where torch's setting allows fp32 convolutions to use tf32. Asked while an operator runs, so that no graph
// compiler can freeze the answer.
using Tf32Reader = int (*)();
void set_tf32_reader(Tf32Reader reader);

// 1: sm_90 takes its wgmma kernels, 0: it does not, -1: as PCONV_WGMMA says. For every later call of the process.
void set_wgmma(int choice);

// Whether a family of kernels (cuda/host/run.h) gives right results with a dtype on a device: 1 yes, 0 no. Asked once
// for each, before its first use; without a checker every family counts as right.
using FamilyChecker = int (*)(unsigned family, int dtype, int device);
void set_family_checker(FamilyChecker checker);

// Whether a new geometry's ways are timed and the fastest kept: 1 yes. Asked by every call while it is set.
using BenchmarkReader = int (*)();
void set_benchmark_reader(BenchmarkReader reader);

// What was measured: a call's key and its choice (choice.h).
std::map<std::string, int> measured_choices();
void set_choices(const std::map<std::string, int>& known);

// What this thread's calls run on from now on, for tests and the check itself: -1 the plan's choice among what was
// checked; 0 the library's convolution; 1 fused kernels without wgmma, 2 with it, both unchecked, and from bit 4 on a
// tile for each pass.
void force_path(int choice);

// The families that this thread's last call ran on; 0: the library's convolution.
constexpr unsigned no_call_yet = 1u << 31;
unsigned last_families();

// The operators of pconv_cuda/ops/fallback.py in torch's own operators, called through the dispatcher.
template <class Result, class... Arguments>
Result unfused(const char* name, const Arguments&... arguments) {
    using torch::stable::detail::from, torch::stable::detail::to;
    std::array<StableIValue, sizeof...(Arguments)> stack{from(arguments)...};
    PCONV_TORCH_CALL(torch_call_dispatcher(name, "", stack.data(), TORCH_TARGET_VERSION));
    if constexpr (std::is_same_v<Result, Tensor>) {
        return to<Tensor>(stack[0]);
    } else {
        Result results;
        size_t next = 0;
        std::apply([&](auto&... result) { ((result = to<Tensor>(stack[next++])), ...); }, results);
        return results;
    }
}

}  // namespace pconv::cuda
