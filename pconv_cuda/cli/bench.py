"""``pconv bench``: this package against what people run today, on this machine; or one result against another."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

SUITES = ("quick", "layers", "networks", "training", "sweeps", "compiled", "photo", "all", "smoke")

_EPILOG = """\
suites: quick (layers, stages and network at 256 px; minutes), layers and networks (512 px), training (a step with its
loss), sweeps (hole share, batch, size, bf16), compiled (rivals under torch.compile), photo (12 megapixels), all.
examples:
  pconv bench --out results/today
  pconv bench --suite all --device cuda --dtype bfloat16 --batch 6 --out results/gpu
  pconv bench --compare old/results.json results/today/results.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--suite", choices=SUITES, default="quick", help="what to measure (default: %(default)s)")
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


def run(args: argparse.Namespace) -> int:
    """The benchmarks stand in the source folder, not in the installed package: they share the tests' cases."""
    from pconv_cuda.errors import PConvError

    places = (Path.cwd(), Path(__file__).resolve().parents[2])
    root = next((place for place in places if (place / "benchmarks" / "suites.py").is_file()), None)
    if root is None:
        raise PConvError(
            "bench: expected the source folder of pconv_cuda (with benchmarks/ and tests/), found none in "
            f"{places[0]}; run `pconv bench` in a checkout or an unpacked sdist"
        )
    for name in ("rounds", "threads", "batch"):
        if (value := getattr(args, name)) is not None and value < 1:
            raise PConvError(f"--{name}: expected at least 1, got {value}")
    sys.path.insert(0, str(root))
    from benchmarks import compare, report, suites

    if args.compare:
        print(compare.table(*args.compare))
        return 0
    if args.report:
        report.write(args.report, args.out)
    else:
        report.write([suites.run(args)], args.out)
    print(f"{args.out / 'report.md'}, and the plots beside it")
    return 0
