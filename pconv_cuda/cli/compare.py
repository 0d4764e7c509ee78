"""``pconv compare``: train the partial and the plain network alike, and evaluate both."""

from __future__ import annotations

import argparse

from pconv_cuda.cli import eval as _eval
from pconv_cuda.text import printable

_EPILOG = """\
examples:
  pconv compare --data train/ --test test/ --out R --steps 20000 --set model.levels=7 --set data.size=256 --size 256
  pconv compare --test test/ --out R          where R/partial and R/plain are runs of pconv train already
Each stage goes on where it was stopped. The split by picture is yours; a file that stands in both folders is refused.
"""

# "config:" begins what is wrong with a key, whichever option set it
ARGUMENTS = {"path": "--config", "settings": "--set", "images": "--test", "config": "config"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    add("--data", metavar="DIR|packaged", help="training pictures")
    add("--test", metavar="DIR", required=True, help="pictures to evaluate on")
    add("--out", metavar="R", required=True, help="folder of R/partial, R/plain and R/eval")
    add("--config", metavar="FILE", help="YAML of the training")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="a key of the training; repeatable")
    add("--steps", metavar="N", type=int, help="training steps of each network")
    _eval.add_common(parser)


def _say(text: str) -> None:
    print(printable(text), flush=True)


def run(args: argparse.Namespace) -> int:
    from pconv_cuda.evaluation import Settings
    from pconv_cuda.evaluation.compare import compare

    settings = Settings(images=args.test, **_eval.common(args))
    steps = {"train.steps": args.steps}
    report = compare(args.out, settings, data=args.data, keys=args.set, overrides=steps, config=args.config, say=_say)
    return _eval.finish(report, f"{args.out}/eval")
