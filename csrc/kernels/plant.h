// Planted mistakes: a build with -DPCONV_PLANTED=<id> holds the one mistake with that id, and the tests must then fail.
// Without it every PLANT is the constant false, and nothing of it is compiled.
#pragma once

#ifndef PCONV_PLANTED
#define PCONV_PLANTED 0
#endif
#define PCONV_PLANT(id) (PCONV_PLANTED == (id))
