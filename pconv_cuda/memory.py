"""Whether an error means that memory ran out, on whichever device and in whichever library."""

from __future__ import annotations

import torch

__all__ = ["is_out_of_memory"]

_WORDS = (
    "out of memory",  # CUDA, HIP, MPS and XPU
    "can't allocate memory",  # torch's CPU allocator
    "not enough memory",  # the same on Windows, and cuBLAS
    "std::bad_alloc",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",  # oneDNN, which allocates while it does
    "could not create a memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, torch's own class, and the RuntimeErrors in which its libraries say so.

    oneDNN's "could not create a primitive" has other causes too, but none that a smaller tensor would not also avoid.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)
