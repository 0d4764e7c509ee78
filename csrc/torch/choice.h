// What a call runs on: kernels that were checked, and in benchmark mode the fastest alternative.
#pragma once

#include "cuda_support.h"

#include <cstdio>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <type_traits>

namespace pconv::cuda {

inline FamilyChecker family_checker = nullptr;
inline BenchmarkReader benchmark_reader = nullptr;
inline thread_local int forced_choice = -1;
inline thread_local unsigned families_used = no_call_yet;
#ifdef PCONV_EMULATE
inline double (*emulated_clock)(int choice) = nullptr;  // milliseconds that a choice is pretended to take
#endif

// A choice as one number: the path (0 the library's convolution, 1 our kernels on mma.sync, 2 those on wgmma too) and,
// from bit 4 on, four bits a pass: the wanted tile's number and one, or 0.
inline int choice_of(int path, const Tiles& wanted) {
    int choice = path;
    for (size_t pass = 0; pass < wanted.size(); ++pass) choice |= (wanted[pass] + 1) << (4 + 4 * pass);
    return choice;
}

inline int path_of(int choice) { return choice < 0 ? -1 : choice & 15; }

inline Tiles wanted_of(int choice) {
    Tiles wanted = any_tiles;
    if (choice >= 0)
        for (size_t pass = 0; pass < wanted.size(); ++pass)
            wanted[pass] = static_cast<signed char>((choice >> (4 + 4 * pass) & 15) - 1);
    return wanted;
}

struct ForcedChoice {
    explicit ForcedChoice(int choice) : before(forced_choice) { forced_choice = choice; }
    ~ForcedChoice() { forced_choice = before; }
    ForcedChoice(const ForcedChoice&) = delete;
    int before;
};

inline bool is_capturing([[maybe_unused]] const CudaCallGuard& guard) {
#ifdef PCONV_EMULATE
    return false;
#else
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(guard.stream, &status) == cudaSuccess && status != cudaStreamCaptureStatusNone;
#endif
}

inline int device_index(const Tensor& tensor) { return tensor.is_cpu() ? 0 : int(tensor.get_device_index()); }

constexpr int dtypes = 5, devices = 64;
inline std::array<std::atomic<signed char>, families * dtypes * devices> checked_families{};

// Whether all of these families were checked and found right, which the first call of each does. Nothing can be checked
// while a graph is captured: an unused family then counts as right.
inline bool are_right(unsigned used, DType dtype, const Tensor& tensor, const CudaCallGuard& guard) {
    enum State : signed char { unknown, right, wrong };
    const int index = device_index(tensor);
    bool all = true;
    for (int family = 0; family < families && all; ++family) {
        if (!(used >> family & 1)) continue;
        auto& state = checked_families[(index * dtypes + int(dtype)) * families + family];
        signed char now = state.load();
        if (now == unknown && family_checker && !is_capturing(guard)) {
            now = family_checker(1u << family, int(dtype), index) ? right : wrong;
            state = now;
        }
        all = now != wrong;
    }
    return all;
}

// ---- benchmark mode

inline std::mutex choices_lock;
inline std::map<std::string, int> choices;  // what was measured: a call's key -> choice

// Everything that a call's time depends on, but the device's name, which the file of choices has.
inline std::string key_of(const Layer& call, const char* pass, unsigned wanted, int device) {
    const Geometry& g = call.geometry;
    std::string key = std::to_string(device) + " " + pass + std::to_string(wanted);
    for (const int64_t value :
         {g.n,
          g.c,
          g.h,
          g.w,
          g.k,
          g.r,
          g.s,
          g.stride_h,
          g.stride_w,
          g.pad_h,
          g.pad_w,
          g.dil_h,
          g.dil_w,
          g.groups,
          int64_t(g.layout),
          int64_t(g.dtype),
          int64_t(call.tf32),
          call.low_channels,
          call.ratio_n,
          int64_t(call.mask.bytes ? call.mask.blocks : 0)})
        key += " " + std::to_string(value);
    return key;
}
inline std::string key_of(const Forward& call, int device) {
    return key_of(call, "f", (call.negative_slope != 1 ? 1 : 0) | (call.phases ? 2 : 0), device);
}
inline std::string key_of(const Backward& call, int device) {
    return key_of(call, "b", (call.dx ? 1 : 0) | (call.dskip ? 2 : 0) | (call.dw ? 4 : 0) | (call.db ? 8 : 0), device);
}

// Milliseconds of one run: after one that is not counted, the shortest of three.
template <class Run>
double time_of([[maybe_unused]] int choice, [[maybe_unused]] const CudaCallGuard& guard, const Run& run) {
    const ForcedChoice forced(choice);
    run();
#ifdef PCONV_EMULATE
    return emulated_clock ? emulated_clock(choice) : 0;
#else
    cudaEvent_t events[2];
    for (cudaEvent_t& event : events) cudaEventCreate(&event);
    float least = 1e30f;
    for (int round = 0; round < 3; ++round) {
        cudaEventRecord(events[0], guard.stream);
        run();
        cudaEventRecord(events[1], guard.stream);
        float milliseconds = 1e30f;
        if (cudaEventSynchronize(events[1]) == cudaSuccess) cudaEventElapsedTime(&milliseconds, events[0], events[1]);
        least = milliseconds < least ? milliseconds : least;
    }
    for (cudaEvent_t& event : events) cudaEventDestroy(event);
    return least;
#endif
}

// What was measured to be the fastest for calls like this one; -1: the static plan decides. First the paths, then, pass
// by pass, the tiles that the fastest path could take.
template <class Call, class Run>
int benchmarked(
    const Call& call, const Tensor& tensor, const CudaCallGuard& guard, const Device& device, const Run& run) {
    if (!benchmark_reader || forced_choice >= 0 || call.geometry.n == 0 || benchmark_reader() != 1) return -1;
    const std::string key = key_of(call, device_index(tensor));
    {
        const std::lock_guard<std::mutex> lock(choices_lock);
        if (const auto found = choices.find(key); found != choices.end()) return found->second;
    }
    if (is_capturing(guard)) return -1;
    int best = 0;
    double least = time_of(0, guard, run);
    std::set<std::pair<Tiles, std::array<int, 4>>> tried;
    const auto attempt = [&](int path, const Tiles& wanted) {
        Device own = device;
        own.wgmma = device.wgmma && path == 2;
        own.wanted = wanted;
        const Kernels kernels = kernels_of(call, own);
        // First and last layers have no tile to choose: nothing is tried twice.
        if (!kernels.families || !tried.emplace(kernels.tiles, kernels.splits).second) return;
        if (!are_right(kernels.families, call.geometry.dtype, tensor, guard)) return;
        const int choice = choice_of(path, wanted);
        const double time = time_of(choice, guard, run);
        if (time < least) best = choice, least = time;
    };
    for (const int path : {1, 2}) attempt(path, any_tiles);
    if (const int path = path_of(best); path > 0)
        for (size_t pass = 0; pass < any_tiles.size(); ++pass) {
            Tiles wanted = wanted_of(best);
            for (int tile = 0; tile < tile_count; ++tile) {
                wanted[pass] = static_cast<signed char>(tile);
                attempt(path, wanted);
            }
        }
    const std::lock_guard<std::mutex> lock(choices_lock);
    choices[key] = best;
    return best;
}

// PCONV_VERBOSE=1: a line on stderr for each new kind of call and what it runs on.
template <class Call>
void say_path(const Call& call, const Tensor& tensor) {
    static const char* const wanted = std::getenv("PCONV_VERBOSE");
    if (!wanted || std::strcmp(wanted, "1") != 0 || forced_choice >= 0) return;
    static std::mutex lock;
    static std::set<std::string> said;
    constexpr const char* names[families] = {
        "gemm",
        "wgmma",
        "first layer",
        "last layer",
        "decoder stage",
        "decoder stage on wgmma",
        "last decoder stage",
        "tall tiles on wgmma"};
    std::string used;
    for (int family = 0; family < families; ++family)
        if (families_used >> family & 1) used += (used.empty() ? "" : ", ") + std::string(names[family]);
    const Geometry& g = call.geometry;
    const std::string line = std::string(std::is_same_v<Call, Forward> ? "forward" : "backward") + " input " +
                             std::to_string(g.n) + "x" + std::to_string(g.c) + "x" + std::to_string(g.h) + "x" +
                             std::to_string(g.w) + ", weight " + std::to_string(g.k) + "x" +
                             std::to_string(g.c / g.groups) + "x" + std::to_string(g.r) + "x" + std::to_string(g.s) +
                             ": " + (used.empty() ? "the library's convolution" : used);
    const std::lock_guard<std::mutex> guard(lock);
    if (said.insert(std::to_string(device_index(tensor)) + line).second)
        std::fprintf(stderr, "pconv_cuda: %s\n", line.c_str());
}

// `run` makes the same call again. Takes wgmma from the device where its kernels are wrong or slower. False: the
// library's convolution serves.
template <class Call, class Run>
bool choose_path(const Call& call, const Tensor& tensor, const CudaCallGuard& guard, Device& device, const Run& run) {
    const int measured = benchmarked(call, tensor, guard, device, run);
    const int choice = measured >= 0 ? measured : forced_choice, path = path_of(choice);
    device.wanted = wanted_of(choice);
    const auto fused = [&] {
        families_used = kernels_of(call, device).families;
        return families_used != 0 && (path > 0 || are_right(families_used, call.geometry.dtype, tensor, guard));
    };
    if (path == 1) device.wgmma = false;
    bool found = path != 0 && fused();
    if (!found && path != 0 && device.wgmma) {
        device.wgmma = false;
        found = fused();
    }
    if (!found) families_used = 0;
    say_path(call, tensor);
    return found;
}

}  // namespace pconv::cuda
