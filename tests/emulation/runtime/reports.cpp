// The emulator's output: errors, and the list of kernels that ran.
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "internal.h"

// Where the binary (or shared library) that contains this file was loaded: put there by the linker.
extern "C" const char __ehdr_start __attribute__((visibility("hidden")));

namespace emu {
namespace {

struct Launches {
    std::string name;
    long times = 0;
};

struct Coverage {
    std::map<const void*, Launches> kernels;

    ~Coverage() { write_where_asked(); }

    bool write(const char* path) const {
        FILE* const file = std::fopen(path, "w");
        if (!file) return false;
        std::fprintf(file, "binary %s\n", binary().c_str());
        for (const auto& [function, launches] : kernels)
            std::fprintf(
                file, "%zx %ld %s\n", size_t(static_cast<const char*>(function) - &__ehdr_start), launches.times,
                launches.name.c_str());
        return std::fclose(file) == 0;
    }

    void write_where_asked() const {
        const char* const folder = std::getenv("EMU_COVERAGE");
        if (!folder || kernels.empty()) return;
        static int part = 0;  // a library and an executable of one process may both be here
        const std::string path =
            std::string(folder) + "/" + std::to_string(getpid()) + "-" + std::to_string(part++) + ".kernels";
        if (!write(path.c_str())) std::fprintf(stderr, "EMU ERROR: cannot write %s\n", path.c_str());
    }

    static std::string binary();
};

// The file that this code was loaded from, as the kernel lists it.
std::string Coverage::binary() {
    std::string found;
    FILE* const maps = std::fopen("/proc/self/maps", "r");
    char line[4096], path[4096];
    while (maps && std::fgets(line, sizeof line, maps)) {
        size_t begin, end;
        path[0] = 0;
        if (std::sscanf(line, "%zx-%zx %*s %*s %*s %*s %4095[^\n]", &begin, &end, path) < 2) continue;
        const size_t here = reinterpret_cast<size_t>(&__ehdr_start);
        if (begin <= here && here < end) found = path;
    }
    if (maps) std::fclose(maps);
    return found;
}

Coverage& coverage() {
    static Coverage instance;
    return instance;
}

}  // namespace

void record_kernel(const void* function, const char* name) {
    Launches& launches = coverage().kernels[function];
    launches.name = name;
    ++launches.times;
}

bool write_coverage(const char* path) { return coverage().write(path); }

void fail(const Site* site, const char* format, ...) {
    std::fflush(stdout);
    std::fprintf(stderr, "EMU ERROR");
    if (current)
        std::fprintf(
            stderr, " block (%u,%u,%u) thread %d", current->block.x, current->block.y, current->block.z,
            current->linear);
    if (site) std::fprintf(stderr, " at %s:%d %s", site->file, site->line, site->operation);
    std::fprintf(stderr, ": ");
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(stderr, format, arguments);
    va_end(arguments);
    std::fprintf(stderr, "\n");
    // Destructors would run on a kernel's stack, among memory that is in an unknown state.
    coverage().write_where_asked();
    std::_Exit(97);
}

}  // namespace emu
