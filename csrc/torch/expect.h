// PCONV_EXPECT(condition, parts of the message...): what torch's STD_TORCH_CHECK does, without a stream. Streams format
// numbers by the locale, and where a toolchain links libstdc++ statically into the extension, that of torch
// and ours do not know each other's: the process crashes instead of raising. Seen with gcc 13 and torch 2.11.
#pragma once

#include <stdexcept>
#include <string>
#include <type_traits>

namespace pconv {

template <class Part>
std::string words(const Part& part) {
    if constexpr (std::is_arithmetic_v<Part>)
        return std::to_string(part);
    else
        return part;
}

template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    throw std::runtime_error((words(parts) + ... + std::string()));
}

}  // namespace pconv

#define PCONV_EXPECT(condition, ...)                  \
    do {                                              \
        if (!(condition)) ::pconv::fail(__VA_ARGS__); \
    } while (false)
