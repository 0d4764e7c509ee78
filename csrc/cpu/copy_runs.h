// Masking of channels_last pixels, shared by the masked copy and by the kernels that mask as they load.
#pragma once

#include <cstdint>
#include <cstring>

namespace pconv::cpu {

// out = mask ? x : 0 for pixels [H W, C] with one mask byte each: neighbours agree, so whole runs are copied or
// cleared at once. In place (out == x) only holes are touched.
inline void copy_runs(const char* x, const uint8_t* valid, int64_t pixels, int64_t row_bytes, char* out) {
    for (int64_t i = 0; i < pixels;) {
        // The library's vectorised search finds the end of a valid run. The end of a hole is any value but 0 (a bool
        // tensor made from foreign bytes may hold a 255), which it cannot look for.
        int64_t end = i + 1;
        if (valid[i]) {
            const void* hole = std::memchr(valid + i, 0, pixels - i);
            end = hole ? static_cast<const uint8_t*>(hole) - valid : pixels;
        } else {
            while (end < pixels && !valid[end]) ++end;
        }
        const int64_t offset = i * row_bytes, length = (end - i) * row_bytes;
        if (!valid[i])
            std::memset(out + offset, 0, length);
        else if (out != x)
            std::memcpy(out + offset, x + offset, length);
        i = end;
    }
}

}  // namespace pconv::cpu
