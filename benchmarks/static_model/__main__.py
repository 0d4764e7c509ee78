"""Cycles counted from machine code, without a GPU (docs/static-model.md).

python -m benchmarks.static_model layers [--gpu h100] [--size 512] [--batch 6]   every layer, pass by pass
python -m benchmarks.static_model tiles  [--gpu h100] [--size 512] [--batch 6]   the plan's tiles beside the fastest
python -m benchmarks.static_model kernel PATTERN [FILE]                          a kernel's loops and cycles
python -m benchmarks.static_model compare OLD.so NEW.so                          what differs between two builds
python -m benchmarks.static_model against [--card h100]                          counted against measured
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.static_model import against, kernel, layers, tiles, versions
from pconv_cuda.errors import PConvError
from pconv_cuda.files import atomic_path

COMMANDS = {"layers": layers, "tiles": tiles, "kernel": kernel, "compare": versions, "against": against}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.static_model", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        own = commands.add_parser(name, description=module.__doc__)
        module.options(own)
        own.add_argument("--json", type=Path, metavar="FILE", help="write everything there too")
    args = parser.parse_args(arguments)
    try:
        said, result = COMMANDS[args.command].run(args)
        if args.json:
            with atomic_path(args.json) as temporary:
                temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except PConvError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    try:
        print(said, flush=True)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
