"""Errors that mean that memory ran out, as the libraries raise them."""

from __future__ import annotations

import pytest
import torch

from pconv_cuda.files import is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("could not create a primitive"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("MPS backend out of memory (MPS allocated: 18.1 GB)"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=str,
)
def test_memory_ran_out(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_torchs_cpu_allocation_error_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**56, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), ValueError("out of memory"),
     OSError(28, "No space left on device")],
    ids=str,
)  # fmt: skip
def test_other_errors_are_not_out_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)
