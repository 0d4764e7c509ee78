// Which planted mistake is awake in this run: the id in the environment variable PCONV_PLANTED (rewrites.py).
#pragma once

#include <cstdlib>

namespace emu {
inline const int planted = std::getenv("PCONV_PLANTED") ? std::atoi(std::getenv("PCONV_PLANTED")) : 0;
}
