// The emulator's sm_90 part as the twins see it: mbarriers, asynchronous copies that finish late and in any order,
// wgmma, and the two proxies through which shared memory is reached.
#pragma once

#include "runtime.h"

namespace emu {

struct TensorMap {
    const uint8_t* tensor;
    int64_t sizes[3], steps[3];  // x first; steps in bytes
    int box[3];
};

void mbarrier_init(uint32_t address, int arrivals, const Site& site);
void mbarrier_arrive(uint32_t address, uint32_t expected_bytes, const Site& site);
void mbarrier_wait(uint32_t address, int parity, const Site& site);

void tma_load(uint32_t destination, const TensorMap& map, const int (&corner)[3], uint32_t mbarrier, const Site& site);
// The current thread's cp.async so far become one piece of work that arrives when it is done.
void copies_arrive(uint32_t mbarrier, const Site& site);

void fence_proxy();

enum class WgmmaElement { bf16, f16 };
struct WgmmaCall {
    uint64_t a, b;  // descriptors
    int columns;
    bool accumulate, a_mn_major, b_mn_major;
    WgmmaElement element;
};
void wgmma_fence();
void wgmma_issue(float* accumulators /* [columns / 2] */, const WgmmaCall& call, const Site& site);
void wgmma_commit();
void wgmma_wait(int groups_in_flight, const Site& site);

void set_registers(int count);  // setmaxnreg, either way

}  // namespace emu
