// The plain kernels (counts, composed, pack, splits, scale_gradient), emulated, against naive loops: small ragged
// shapes, every dtype, both layouts, every kind of mask, NaN in all that must not be looked at.
// Exit status 1 where a value differs, or where some launcher was never called.
//
//   test_plain [PART ...]   the parts are named below; all of them where none is given
#include "plain_support.h"

void test_masks();
void test_passes();
void test_windows();
void test_pack_activation();
void test_pack_weight();
void test_splits();
void test_scale_gradient();

namespace {

struct Part {
    const char* name;
    void (*run)();
    std::vector<const char*> launchers;
};

const Part parts[] = {
    {"masks", test_masks, {"mask_to_bytes", "count_not_binary"}},
    {"composed", test_passes, {"window_ratio", "masked_copy", "renormalise"}},
    {"windows", test_windows, {"windows_ratio"}},
    {"activation", test_pack_activation, {"pack_activation"}},
    {"weight", test_pack_weight, {"pack_weight", "pack_weight transposed"}},
    {"splits", test_splits, {"reduce_wgrad", "finish_splits"}},
    {"gradient", test_scale_gradient, {"scale_gradient"}},
};

bool report(const char* launcher) {
    const Tally& tally = tallies()[launcher];
    std::printf(
        "%-24s %4lld cases %7lld values %5lld wrong\n", launcher, (long long)tally.cases, (long long)tally.values,
        (long long)tally.wrong);
    return tally.cases > 0 && tally.values > 0 && tally.wrong == 0;
}

}  // namespace

int main(int argc, char** argv) {
    bool right = true;
    int ran = 0;
    for (const Part& part : parts) {
        bool wanted = argc == 1;
        for (int i = 1; i < argc; ++i) wanted = wanted || std::strcmp(argv[i], part.name) == 0;
        if (!wanted) continue;
        part.run();
        ++ran;
        for (const char* launcher : part.launchers) right = report(launcher) && right;
    }
    if (ran == 0 || (argc > 1 && ran != argc - 1)) {
        std::printf("a part that does not exist was asked for\n");
        right = false;
    }
    std::printf("%s\n", right ? "PASSED" : "FAILED");
    return right ? 0 : 1;
}
