"""The driver of random operator calls: 300 now, 10,000 in the full tier, and that it catches mistakes."""

from __future__ import annotations

import time
from collections.abc import Callable

import fuzz_operators
import pytest
import torch
from fuzz_operators import failures

from pconv_cuda import functional, ops

SEED = 14


@pytest.mark.parametrize(
    ("seed", "cases"),
    [(SEED, 300), pytest.param(SEED + 1, 10_000, marks=pytest.mark.full("10,000 random operator calls"))],
)
def test_random_calls(seed: int, cases: int) -> None:
    failed = [f"--seed {seed} --only {index}: {error}\n{problem}" for index, problem, error in failures(cases, seed)]
    assert not failed, "\n".join(failed[:10])


def nan_is_valid(patch: pytest.MonkeyPatch) -> None:
    """Masks are read as ``mask != 0``."""
    original = functional.checked_mask
    patch.setattr(functional, "checked_mask", lambda mask, *rest: (original(mask, *rest) != 0).to(mask.dtype))


def strides_are_taken_as_one_number(patch: pytest.MonkeyPatch) -> None:
    original = functional.pair

    def pair(name: str, *rest: object) -> tuple[int, int]:
        numbers = original(name, *rest)
        return (numbers[0], numbers[0]) if name == "stride" else numbers

    patch.setattr(functional, "pair", pair)


def threads_share_a_buffer(patch: pytest.MonkeyPatch) -> None:
    """Each output is handed over in memory that the next call of any thread writes to."""
    shared: dict[tuple, torch.Tensor] = {}

    def wrapped(original: Callable) -> Callable:
        def call(*arguments: object) -> tuple:
            output, *rest = original(*arguments)
            key = (tuple(output.shape), output.dtype)
            buffer = shared.setdefault(key, torch.zeros_like(output))
            with torch.no_grad():
                buffer.zero_()
            time.sleep(0.002)
            with torch.no_grad():
                buffer.add_(output.detach())
            return (output + (buffer - output).detach(), *rest)

        return call

    patch.setattr(ops, "partial_conv2d", wrapped(ops.partial_conv2d))


def the_bias_is_read_without_its_stride(patch: pytest.MonkeyPatch) -> None:
    original = ops.partial_conv2d

    def call(*arguments: object) -> tuple:
        *sources, bias = arguments[:6]
        if isinstance(bias, torch.Tensor) and bias.stride(0) != 1:
            bias = bias.as_strided((len(bias),), (0,))
        return original(*sources, bias, *arguments[6:])

    patch.setattr(ops, "partial_conv2d", call)


def a_rounding_too_much(patch: pytest.MonkeyPatch) -> None:
    """fp32 computed in bf16."""
    original = ops.partial_conv2d

    def call(input: torch.Tensor, *rest: object) -> tuple:
        return original(input.bfloat16().to(input.dtype) if input.dtype == torch.float32 else input, *rest)

    patch.setattr(ops, "partial_conv2d", call)


MISTAKES = [
    nan_is_valid, strides_are_taken_as_one_number, threads_share_a_buffer, the_bias_is_read_without_its_stride,
    a_rounding_too_much,
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda function: function.__name__)
def test_a_planted_mistake_is_caught(mistake: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    assert next(failures(300, SEED), None) is not None


def test_accepted_bad_input_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_operators, "call_ours", lambda *_: (torch.zeros(()), torch.zeros(())))
    found = [str(error) for _, problem, error in failures(60, SEED) if problem.wrong]
    assert "wrong window was not refused" in found
