"""Numbers at real sizes: every layer and decoder stage of the paper's network against float64, on the device.

    python -m benchmarks.gpu.accuracy OUT.json [--kernels mma.sync|wgmma] [--after NAME] [--seconds N] [--size 512] ...

Output, input gradients, weight gradient and new mask, in bf16, fp16, tf32 and full fp32 (on wgmma: the half types).
The rule is that of the tests: our largest error is at most twice that of torch's own composition in the same precision,
or one rounding of the largest value. A row is written when it is known. After a kernel that failed or hung nothing in
its process can be trusted: the program ends with code 3, and goes on behind that layer with ``--after``.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from cases import Case, paper_layers
from cases_upcat import Stage, paper_stages
from torch import Tensor

from benchmarks.gpu import device
from benchmarks.gpu.layers import HOLE_SHARE, blob_mask, keep, options
from pconv_cuda import reference
from pconv_cuda.functional import partial_conv2d_sources, partial_conv2d_upcat

Leaves = list[Tensor]
Function = Callable[[Leaves], tuple[Tensor, Tensor]]  # (output, new mask)
PRECISIONS = {
    "bfloat16": (torch.bfloat16, False),
    "float16": (torch.float16, False),
    "tf32": (torch.float32, True),
    "float32": (torch.float32, False),
}


class Problem:
    """One layer or stage: its leaves in float64, the truth as a function of them, and ours."""

    def __init__(self, name: str, shapes: dict[str, tuple[int, ...]], output: tuple[int, ...], fan_in: int) -> None:
        self.name, self.names = name, [*shapes, "output"]
        self.generator = torch.Generator(device.NAME).manual_seed(0)
        # Weights of He's size keep every result within fp16's range.
        self.drawn = [self.normal(*shape) * (fan_in**-0.5 if key == "weight" else 1) for key, shape in shapes.items()]
        self.grad = self.normal(*output)

    def normal(self, *shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=self.generator, device=device.NAME)
        return drawn.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else drawn

    def holes(self, n: int, side: int) -> Tensor:
        return blob_mask(n, side, side, HOLE_SHARE, torch.Generator().manual_seed(side)).to(device.NAME)

    truth: Function
    ours: Function

    def run(self, function: Function, dtype: torch.dtype, rounding: str) -> list[Tensor]:
        """[gradients of the leaves ..., output, new mask]; leaves are rounded first. ``half``: to both half types."""

        def cast(tensor: Tensor) -> Tensor:
            rounded = {
                "half": lambda: tensor.bfloat16().half().bfloat16(),
                "tf32": lambda: ((tensor.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32),
                "float32": lambda: tensor,
            }
            return rounded[rounding]().to(dtype)

        leaves = [cast(leaf).requires_grad_() for leaf in self.drawn]
        output, new_mask = function(leaves)
        return [*torch.autograd.grad(output, leaves, cast(self.grad)), output.detach(), new_mask]


def layer_problem(case: Case) -> Problem:
    blocks = case.mask_channels or (case.c,)
    (r, s), (sh, sw), (ph, pw) = case.window, case.stride, case.padding
    p, q = (case.h + 2 * ph - r) // sh + 1, (case.w + 2 * pw - s) // sw + 1
    shapes = {"input": (case.n, case.c, case.h, case.w), "weight": (case.k, case.c, r, s)}
    shapes |= {"bias": (case.k,)} if case.bias else {}
    problem = Problem(case.name, shapes, (case.n, case.k, p, q), case.c * r * s)
    masks = [problem.holes(case.n, case.h).roll(i, 3) for i, _ in enumerate(blocks)]

    def truth(leaves: Leaves) -> tuple[Tensor, Tensor]:
        spread = torch.cat([mask.expand(-1, c, -1, -1) for mask, c in zip(masks, blocks, strict=True)], 1)
        return reference.partial_conv2d(leaves[0], spread, leaves[1], *leaves[2:], stride=(sh, sw), padding=(ph, pw))

    def ours(leaves: Leaves) -> tuple[Tensor, Tensor]:
        bias = leaves[2] if case.bias else None
        sources = leaves[0].split(blocks, 1)
        return partial_conv2d_sources(sources, masks, leaves[1], bias, (sh, sw), (ph, pw))

    problem.truth, problem.ours = truth, ours
    return problem


def stage_problem(stage: Stage) -> Problem:
    n, h, w = stage.n, stage.h, stage.w
    shapes: dict[str, tuple[int, ...]] = {
        "low": (n, stage.low, h, w),
        "skip": (n, stage.skip, 2 * h, 2 * w),
        "weight": (stage.k, stage.low + stage.skip, 3, 3),
    }
    shapes |= {"bias": (stage.k,)} if stage.bias else {}
    problem = Problem(f"stage {stage.name}", shapes, (n, stage.k, 2 * h, 2 * w), 9 * (stage.low + stage.skip))
    masks = problem.holes(n, h), problem.holes(n, 2 * h)

    def call(function: Callable[..., Any]) -> Function:
        return lambda leaves: function(leaves[0], masks[0], leaves[1], masks[1], *leaves[2:])

    problem.truth, problem.ours = call(reference.partial_conv2d_upcat), call(partial_conv2d_upcat)
    return problem


def row(what: str, ours: Tensor, truth: Tensor, rivals: list[Tensor]) -> dict[str, Any]:
    error, *others = ((found.double() - truth).abs().max().item() for found in (ours, *rivals))
    theirs = max(others)
    one_rounding = torch.finfo(ours.dtype).eps * truth.abs().max().item()
    fine = bool(ours.isfinite().all()) and error <= max(2 * theirs, one_rounding)
    return {"what": what, "error": error, "allowed": 2 * theirs, "largest": truth.abs().max().item(), "passed": fine}


def compare(problem: Problem, kernels: str) -> Iterator[dict[str, Any]]:
    truths: dict[str, list[Tensor]] = {}
    for precision, (dtype, tf32) in PRECISIONS.items():
        leaves = "half" if dtype != torch.float32 else "float32"
        if kernels == "wgmma" and leaves != "half":
            continue
        if leaves not in truths:
            truths = {leaves: problem.run(problem.truth, torch.float64, leaves)}
        truth = truths[leaves]
        device.set_tf32(tf32)
        rivals = [problem.run(problem.truth, dtype, leaves)]
        if tf32:  # cuDNN takes full fp32 for some shapes; what tf32 means is that operands are rounded
            rivals.append(problem.run(problem.truth, torch.float64, "tf32"))
        about = {"layer": problem.name, "precision": precision, "kernels": kernels}
        try:
            ours = problem.run(problem.ours, dtype, leaves)
            torch.cuda.synchronize()
        except Exception as error:
            yield {**about, "what": "call", "error": f"{type(error).__name__}: {error}"[:600], "passed": False}
            torch.cuda.synchronize()  # raises again where the context is lost
            continue
        for what, found, true, *theirs in zip(problem.names, ours, truth, *rivals, strict=False):
            yield {**about, **row(what, found, true, theirs)}
        same = torch.equal(ours[-1] != 0, (truth[-1] != 0).expand_as(ours[-1]))
        yield {**about, "what": "new mask", "passed": same}


class Watch:
    """Ends the process with code 3 where a step outlasts its time: a kernel that hangs cannot be stopped otherwise."""

    def __init__(self, out: Path, result: dict[str, Any], kernels: str) -> None:
        self.out, self.result, self.kernels, self.since = out, result, kernels, time.monotonic()
        threading.Thread(target=self._look, daemon=True).start()

    def step(self) -> None:
        self.since = time.monotonic()

    def _look(self) -> None:
        while time.monotonic() - self.since < device.PATIENCE:
            time.sleep(0.5)
        hung = {"layer": self.result["at"], "kernels": self.kernels, "what": "hung", "passed": False}
        self.result["rows"].append(hung)
        keep(self.out, self.result)
        print(f"{self.result['at']} hung", flush=True)
        os._exit(device.BROKEN)


def problems(size: int, batch: int, levels: int) -> dict[str, Callable[[], Problem]]:
    """Large layers and stages first; the decoder's layers on joined input, which a network does not run, last."""
    layers = {case.name: case for case in paper_layers(size, batch)}
    made = {name: (lambda case=case: layer_problem(case)) for name, case in layers.items()}
    stages = paper_stages(size, batch, levels)
    staged = {f"stage {one.name}": (lambda one=one: stage_problem(one)) for one in stages}
    encoder = {f"enc{level}" for level in range(1, levels + 1)}
    decoder = {f"dec{level}" for level in range(1, levels + 1)}
    return {
        **{name: make for name, make in made.items() if name in encoder},
        **staged,
        **{name: make for name, make in made.items() if name in decoder},
    }


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--kernels", default="mma.sync", choices=["mma.sync", "wgmma"])
    parser.add_argument("--after", default="", help="go on behind this layer, with the rows of OUT.json kept")
    args = parser.parse_args()
    if not device.is_there():
        print("not measured: torch sees no GPU")
        return 0
    stop = time.monotonic() + args.seconds
    todo = problems(args.size, args.batch, args.levels)
    names = list(todo)
    todo = {name: todo[name] for name in names[names.index(args.after) + 1 if args.after else 0 :]}
    known = json.loads(args.out.read_text())["rows"] if args.out.is_file() else []
    known = [row for row in known if row["kernels"] != args.kernels or args.after]
    result: dict[str, Any] = {"size": args.size, "batch": args.batch, "at": "", "rows": known}
    device.take_wgmma(args.kernels == "wgmma")
    watch = Watch(args.out, result, args.kernels)
    for name, make in todo.items():
        if time.monotonic() > stop:
            result["cut_short_before"] = name
            break
        result["at"] = name
        watch.step()
        try:
            for found in compare(make(), args.kernels):
                watch.step()
                result["rows"].append(found)
                if not found["passed"]:
                    print(found, flush=True)
        except RuntimeError as error:  # of CUDA: the context is lost
            print(f"{name}: {error}", flush=True)
            lost = {"what": "lost", "error": str(error)[:600], "passed": False}
            result["rows"].append({"layer": name, "kernels": args.kernels, **lost})
            return device.BROKEN
        finally:
            keep(args.out, result)
    rows = [found for found in result["rows"] if found["kernels"] == args.kernels]
    wrong = [found for found in rows if not found["passed"]]
    cut = f", cut short before {result['cut_short_before']}" if "cut_short_before" in result else ""
    print(f"{len(rows)} comparisons, {len(wrong)} failures{cut}", flush=True)
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
