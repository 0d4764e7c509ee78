// The stable ABI that we are built for: torch 2.11 and everything after it.
// Every file that includes a torch header includes this one first.
#pragma once

#define TORCH_TARGET_VERSION (((0ULL + 2) << 56) | ((0ULL + 11) << 48))
