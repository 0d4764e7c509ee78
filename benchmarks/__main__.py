"""This package against published implementations on this machine, or one result against another.

python -m benchmarks --help        in the source folder: the benchmarks share the tests' cases
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import compare, report, suites
from pconv_cuda.errors import PConvError

_EPILOG = """\
suites: quick (layers, stages and network at 256 px; minutes), layers and networks (512 px), training (a step with its
loss), sweeps (hole share, batch, size, bf16), compiled (rivals under torch.compile), photo (12 megapixels), all.
examples:
  python -m benchmarks --out results/today
  python -m benchmarks --suite all --device cuda --dtype bfloat16 --batch 6 --out results/gpu
  python -m benchmarks --compare old/results.json results/today/results.json
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare speeds on this machine, or two results with each other.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    add = found.add_argument
    add("--suite", choices=list(suites.SUITES), default="quick", help="what to measure (default: %(default)s)")
    add(
        "--out", metavar="DIR", type=Path, default=Path("bench"), help="results.json, report.md, plots (default: bench)"
    )
    add("--rounds", metavar="N", type=int, default=10, help="how often every rival runs (default: %(default)s)")
    add("--threads", metavar="N", type=int, default=1, help="threads on a CPU (default: %(default)s)")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="cpu",
        help="default: %(default)s; another GPU: CUDA_VISIBLE_DEVICES",
    )
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="default: %(default)s")
    add("--batch", metavar="N", type=int, help="pictures at once, in every suite but sweeps (default: the suite's)")
    add("--report", metavar="JSON", nargs="+", type=Path, help="measure nothing: report these results into --out")
    add("--compare", metavar="JSON", nargs=2, type=Path, help="measure nothing: OLD and NEW, with a verdict a row")
    return found


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        for name in ("rounds", "threads", "batch"):
            if (value := getattr(args, name)) is not None and value < 1:
                raise PConvError(f"--{name}: expected at least 1, got {value}")
        if args.compare:
            print(compare.table(*args.compare))
            return 0
        report.write(args.report or [suites.run(args)], args.out)
    except PConvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.out / 'report.md'}, and the plots beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
