// Planted mistakes. A kernel that ships has none: PCONV_PLANT(id) is then the constant false. The emulated tests
// compile them in, all at once with -DPCONV_PLANTS (the environment variable PCONV_PLANTED picks one at run time) or
// one alone with -DPCONV_PLANTED=id, and must fail with every one of them.
#pragma once

#ifdef PCONV_PLANTS
#include <cstdlib>
namespace pconv {
inline const int planted = std::getenv("PCONV_PLANTED") ? std::atoi(std::getenv("PCONV_PLANTED")) : 0;
}
#define PCONV_PLANT(id) (::pconv::planted == (id))
#else
#ifndef PCONV_PLANTED
#define PCONV_PLANTED 0
#endif
#define PCONV_PLANT(id) (PCONV_PLANTED == (id))
#endif
