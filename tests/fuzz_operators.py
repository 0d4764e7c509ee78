"""Random calls of the layer, the functions and the decoder's stage against the reference in float64.

    python tests/fuzz_operators.py --cases 10000 --seed 1        # --only I: case I of that seed alone

The rule: our error is at most twice that of torch's own operators in the same precision, or a few roundings of the
largest sum of absolute values (what a sum of its terms in another order may differ by). New masks are exact, and
arguments that cannot be computed with raise ValueError or TypeError.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from fuzz_tensors import DTYPES, Draw, repeated, values_of, view_of
from torch import Tensor

from pconv_cuda import PartialConv2d, PartialConvUpCat2d, functional, reference

ROUNDINGS = {torch.float64: 64, torch.float32: 4, torch.bfloat16: 4, torch.float16: 4}
KINDS = ("function", "layer", "sources", "stage")
THREADS = 3


@dataclass
class Problem:
    """One call: tensors by name, masks by name, how they are handed over, and whether it has to be refused."""

    kind: str
    dtype: torch.dtype
    tensors: dict[str, Tensor]  # float64, dense; None is left out
    masks: dict[str, Tensor | None]  # bool, dense
    given: dict[str, Any]  # the same as the call gets them: dtypes, strides
    options: dict[str, Any]
    needs: list[str]  # names whose gradient is asked for
    context: str = ""  # autocast, inference or nothing
    threads: bool = False
    wrong: str = ""  # what is wrong with it on purpose
    notes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shapes = {name: (tuple(t.shape), t.stride(), str(t.dtype)) for name, t in self.given.items() if t is not None}
        return (
            f"{self.kind} {self.dtype} {shapes} {self.options} needs={self.needs} context={self.context!r} "
            f"threads={self.threads} wrong={self.wrong!r}"
        )


def draw_problem(seed: int, index: int) -> Problem:
    draw = Draw(seed, index)
    kind, dtype = draw.choice(KINDS), draw.choice(DTYPES)
    context = draw.choice(("", "", "", "autocast", "inference"))
    if context == "autocast" and dtype == torch.float64:
        context = ""
    cast = draw.choice((torch.bfloat16, torch.float16)) if context == "autocast" else dtype
    tensors, masks, options, wrong = (draw_stage if kind == "stage" else draw_window)(draw, kind)
    tensors = {name: t.to(cast).double() for name, t in tensors.items()}
    tensors = {name: repeated(draw, t) if draw.chance(0.15) else t for name, t in tensors.items()}
    given: dict[str, Any] = {}
    for name, mask in masks.items():
        given[name] = None if mask is None else view_of(draw, values_of(draw, mask))
    for name, tensor in tensors.items():
        poisoned = tensor
        if (mask := masks.get({"input": "mask"}.get(name, f"{name}_mask"))) is not None and not wrong:
            poisoned = torch.where(mask, tensor, torch.nan)
        given[name] = view_of(draw, poisoned.to(torch.float32 if context == "autocast" else dtype))
    needs = [] if context == "inference" else [name for name in tensors if name != "grad" and draw.chance(0.7)]
    notes = {"cast": cast}
    return Problem(
        kind, dtype, tensors, masks, given, options, needs, context, draw.chance(0.1), wrong, notes
    )  # fmt: skip


def draw_window(draw: Draw, kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor | None], dict[str, Any], str]:
    """A convolution; ``sources`` has two inputs."""
    groups = 1 if kind == "sources" else draw.choice((1, 1, 1, 2, 3))
    window = draw.choice(((1, 1), (3, 3), (3, 3), (2, 5), (5, 5), (7, 7), (4, 1)))
    stride, dilation = (draw.pair((1, 1, 2, 3)) for _ in range(2))
    padding = draw.pair((0, 1, 2, 4))
    n, h, w = draw.choice((0, 1, 1, 2, 3)), draw.size(), draw.size()
    c, k = groups * draw.choice((1, 2, 3, 4, 8, 17)), groups * draw.choice((1, 3, 5, 16, 32))
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
    if kind != "sources":
        options["groups"] = groups
    mode = draw.choice(("zeros", "reflect", "replicate", "circular")) if kind == "layer" else "zeros"
    if mode != "zeros":
        options["padding_mode"] = mode
        options["padding"] = padding = tuple(min(pad, size - 1) for pad, size in zip(padding, (h, w), strict=True))
    reach = [d * (size - 1) + 1 for d, size in zip(dilation, window, strict=True)]
    wrong = ""
    if any(size + 2 * pad < need for size, pad, need in zip((h, w), padding, reach, strict=True)):
        wrong = "window"
    if draw.chance(0.04):
        wrong, (c, h, w, k) = "empty", [(0, h, w, k), (c, 0, w, k), (c, h, 0, k), (c, h, w, 0)][draw.integer(0, 3)]
    if kind == "function" and not wrong and draw.chance(0.15):
        options["padding"] = "valid" if any(a < b for a, b in zip((h, w), reach, strict=True)) is False else padding
    p, q = ((size + 2 * pad - need) // step + 1 for size, pad, need, step in
            zip((h, w), (0, 0) if options["padding"] == "valid" else padding, reach, stride, strict=True))  # fmt: skip
    tensors = {"input": draw.randn(n, c, h, w), "weight": draw.randn(k, c // groups, *window)}
    masks = {"mask": draw.mask(n, c, h, w)}
    if kind == "sources":
        extra = draw.choice((1, 2, 5))
        tensors["other"], masks["other_mask"] = draw.randn(n, extra, h, w), draw.mask(n, extra, h, w)
        tensors["weight"] = draw.randn(k, c + extra, *window)
    if draw.chance(0.7):
        tensors["bias"] = draw.randn(k)
    tensors["grad"] = draw.randn(n, k, max(p, 0), max(q, 0))
    return tensors, masks, options, wrong


def draw_stage(draw: Draw, kind: str) -> tuple[dict[str, Tensor], dict[str, Tensor | None], dict[str, Any], str]:
    n, h, w = draw.choice((0, 1, 1, 2, 3)), draw.size(20), draw.size(20)
    low, skip, k = (draw.choice((1, 2, 3, 5, 16, 33)) for _ in range(3))
    tall, wide, wrong = 2 * h, 2 * w, ""
    if draw.chance(0.04):
        wrong = "shape"
        tall += draw.choice((1, 2))
    tensors = {"low": draw.randn(n, low, h, w), "skip": draw.randn(n, skip, tall, wide)}
    tensors["weight"] = draw.randn(k, low + skip, 3, 3)
    if draw.chance(0.7):
        tensors["bias"] = draw.randn(k)
    tensors["grad"] = draw.randn(n, k, tall, wide)
    masks = {
        "low_mask": draw.mask(n, low, h, w, equal=True),
        "skip_mask": draw.mask(n, skip, tall, wide, equal=True),
    }
    return tensors, masks, {}, wrong


# Calls -----------------------------------------------------------------------------------------------------------


def call_ours(problem: Problem, t: dict[str, Any]) -> tuple[Tensor, Tensor]:
    options, bias = problem.options, t.get("bias")
    if problem.kind == "function":
        return functional.partial_conv2d(t["input"], t["mask"], t["weight"], bias, **options)
    if problem.kind == "sources":
        return functional.partial_conv2d_sources(
            [t["input"], t["other"]], [t["mask"], t["other_mask"]], t["weight"], bias, **options
        )
    if problem.kind == "stage":
        stage = PartialConvUpCat2d.__new__(PartialConvUpCat2d)
        torch.nn.Module.__init__(stage)
        stage.low_channels, stage.return_mask = t["low"].shape[1], True
        stage.__dict__.update(weight=t["weight"], bias=bias)
        return stage(t["low"], t["low_mask"], t["skip"], t["skip_mask"])
    k, c, *window = t["weight"].shape
    if 0 in t["weight"].shape:
        return functional.partial_conv2d(t["input"], t["mask"], t["weight"], bias)
    layer = PartialConv2d(c * options["groups"], k, window, bias=False, device="meta", return_mask=True, **options)
    del layer.weight, layer.bias
    layer.__dict__.update(weight=t["weight"], bias=bias)  # plain tensors, as views of any strides
    return layer(t["input"], t["mask"])


def call_reference(problem: Problem, t: dict[str, Any]) -> tuple[Tensor, Tensor]:
    if problem.kind == "stage":
        return reference.partial_conv2d_upcat(
            t["low"], t["low_mask"], t["skip"], t["skip_mask"], t["weight"], t.get("bias")
        )
    options, input, mask = dict(problem.options), t["input"], t["mask"]
    if problem.kind == "sources":
        sources = [(t["input"], t["mask"]), (t["other"], t["other_mask"])]
        full = [torch.ones(x.shape, dtype=torch.bool) if m is None else reference.as_valid(m).expand_as(x)
                for x, m in sources]  # fmt: skip
        input, mask = torch.cat([x for x, _ in sources], 1), torch.cat(full, 1)
        output, new_mask = reference.partial_conv2d(input, mask, t["weight"], t.get("bias"), **options)
        return output, new_mask[:, :1]
    mode = options.pop("padding_mode", "zeros")
    if mode != "zeros":
        (top, left), options["padding"] = options["padding"], 0
        sides = (left, left, top, top)
        if mask is not None:
            kept = mask.dtype
            mask = torch.nn.functional.pad(reference.as_valid(mask).double(), sides, mode=mode).to(kept)
        input = torch.nn.functional.pad(input, sides, mode=mode)
    return reference.partial_conv2d(input, mask, t["weight"], t.get("bias"), **options)


Call = Callable[[Problem, dict[str, Any]], tuple[Tensor, Tensor]]


def run(problem: Problem, call: Call, values: dict[str, Any], autocast: bool) -> tuple[list[Tensor], Tensor]:
    """``([output, *gradients], new mask)``; the context is this thread's own."""
    leaves = {name: t.detach().requires_grad_(name in problem.needs) if name in problem.tensors else t
              for name, t in values.items() if t is not None or name in problem.masks}  # fmt: skip
    with contextlib.ExitStack() as stack:
        if problem.context == "inference":
            stack.enter_context(torch.inference_mode())
        if autocast and problem.context == "autocast":
            stack.enter_context(torch.autocast("cpu", problem.notes["cast"]))
        output, new_mask = call(problem, leaves)
    found = [output.detach()]
    if problem.needs:
        wanted = [leaves[name] for name in problem.needs]
        found += torch.autograd.grad(output, wanted, values["grad"].to(output.dtype))
    return found, new_mask


# The check -------------------------------------------------------------------------------------------------------


def check(problem: Problem) -> None:
    """AssertionError where a call is off, or does not refuse what is wrong with it."""
    if problem.wrong:
        try:
            run(problem, call_ours, problem.given, True)
        except (ValueError, TypeError):
            return
        raise AssertionError(f"wrong {problem.wrong} was not refused")
    exact: dict[str, Any] = {**problem.tensors, **problem.masks}
    truth, true_mask = run(problem, call_reference, exact, False)
    magnitudes = {name: tensor.abs() for name, tensor in problem.tensors.items()}
    sums, _ = run(problem, call_reference, {**magnitudes, **problem.masks}, False)
    if problem.threads:
        with ThreadPoolExecutor(THREADS) as pool:
            jobs = [pool.submit(run, problem, call_ours, problem.given, True) for _ in range(THREADS)]
            results = [job.result() for job in jobs]
    else:
        results = [run(problem, call_ours, problem.given, True)]
    mask = problem.given.get("mask")
    mask_dtype = torch.bool if mask is None or problem.kind in ("sources", "stage") else mask.dtype
    theirs: list[Tensor] | None = None
    for found, new_mask in results:
        assert new_mask.dtype == mask_dtype, f"new mask: {new_mask.dtype}, expected {mask_dtype}"
        assert torch.equal(new_mask, true_mask.to(mask_dtype)), "new mask"
        assert found[0].dtype == problem.notes["cast"], f"output: {found[0].dtype}"
        for i, name in enumerate(["output", *problem.needs]):
            ours, true = found[i], truth[i]
            assert ours.shape == true.shape, f"{name}: shape {tuple(ours.shape)}, expected {tuple(true.shape)}"
            assert torch.isfinite(ours).all(), f"{name}: NaN or infinity"
            if true.numel() == 0:
                continue
            cast = problem.notes["cast"]
            least = ROUNDINGS[cast] * torch.finfo(cast).eps * sums[i].abs().max().item()
            error = (ours.double() - true).abs().max().item()
            if error > least:  # by torch's own error
                theirs = theirs or run(problem, call_reference, problem.given, True)[0]
                allowed = 2 * (theirs[i].double() - true).abs().max().item()
                assert error <= allowed, f"{name}: error {error:.3g}, allowed {max(allowed, least):.3g}"


def failures(cases: int, seed: int, first: int = 0) -> Iterator[tuple[int, Problem, BaseException]]:
    """Each case that fails, with its number."""
    for index in range(first, first + cases):
        problem = draw_problem(seed, index)
        try:
            check(problem)
        except Exception as error:
            yield index, problem, error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="the number of one case")
    args = parser.parse_args()
    start, found = time.monotonic(), 0
    first, cases = (args.only, 1) if args.only is not None else (0, args.cases)
    for index, problem, error in failures(cases, args.seed, first):
        found += 1
        print(f"--seed {args.seed} --only {index}: {type(error).__name__}: {error}\n  {problem}", flush=True)
    kinds = Counter(draw_problem(args.seed, index).kind for index in range(first, first + min(cases, 100)))
    print(f"{cases} cases in {time.monotonic() - start:.0f} s, {found} failed; of the first 100: {dict(kinds)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
