"""The command ``pconv``: one module a verb, imported only when the verb is run.

Nothing here imports torch: ``pconv --help`` has to answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import threading
import warnings
from collections.abc import Sequence

from pconv_cuda.errors import PConvError
from pconv_cuda.files import system_error_text

# verb -> one line of help; the module of the same name has add_arguments(parser) and run(args) -> int
VERBS = {
    "info": "versions, what was built, devices, and what is missing",
    "quickstart": "train a small network on packaged photographs and restore pictures with it",
    "train": "train a network by the paper's recipe",
    "inpaint": "fill the holes of pictures",
    "masks": "make mask files, from a seed or a video, and look at those of a folder",
    "bench": "compare speeds on this machine, or two results with each other",
    "eval": "print the paper's table for networks and baselines",
    "compare": "train the partial and the plain network alike and evaluate both",
    "convert": "read weights of other implementations",
}


def build_parser() -> argparse.ArgumentParser:
    """The whole parser; verbs declare their options without importing anything heavy."""
    parser = argparse.ArgumentParser(
        prog="pconv", description="Inpainting of irregular holes with partial convolutions."
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        module = importlib.import_module(f"pconv_cuda.cli.{name}")
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's writer raises its error in its thread, and once more in the main one, which reports it."""
    if not (isinstance(failure.exc_value, OSError) and system_error_text(failure.exc_value)):
        threading.__excepthook__(failure)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. Returns the exit code: 0 done, 1 the work failed, 2 the call was wrong."""
    args = build_parser().parse_args(argv)
    # People read these: no file, no line number, no source.
    warnings.formatwarning = lambda message, *_, **__: f"pconv {args.verb}: warning: {message}\n"  # type: ignore
    threading.excepthook = _report_thread
    try:
        return args.run(args)
    except PConvError as error:
        print(f"pconv {args.verb}: error: {error}", file=sys.stderr)
        return 1
    except ImportError as error:
        # Without its core (torch, numpy, the extension) no verb works, and a traceback helps nobody.
        if (error.name or "").partition(".")[0] not in ("torch", "torchvision", "numpy", "pconv_cuda", ""):
            raise
        print(f"pconv {args.verb}: error: {error}; `pconv info` says what is missing", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `pconv ... | head`: the reader has gone, which is no failure
        return 0
    except (OSError, RuntimeError) as error:
        text = system_error_text(error)
        if text is None:
            raise
        print(f"pconv {args.verb}: error: {text}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pconv {args.verb}: interrupted", file=sys.stderr)
        return 130
