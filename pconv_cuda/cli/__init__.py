"""The command ``pconv``: one module a verb, imported only when the verb is run.

Nothing here imports torch, so that ``pconv --help`` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from typing import NoReturn

from pconv_cuda import __version__
from pconv_cuda.cli.streams import standard_streams
from pconv_cuda.cli.threads import spin_briefly
from pconv_cuda.errors import PConvError
from pconv_cuda.files import system_error_text
from pconv_cuda.signals import Interrupted, end_now, ending_signals
from pconv_cuda.text import printable, rename_arguments

# verb -> one line of help; the module of the same name has add_arguments(parser) and run(args) -> int, and optionally
# ARGUMENTS: the options of library arguments that have other names
VERBS = {
    "info": "versions, what was built, devices, and what is missing",
    "selftest": "check the kernels against the library's convolution on this machine",
    "quickstart": "train a small network on packaged photographs and restore pictures with it",
    "train": "train a network by the paper's recipe",
    "inpaint": "fill the holes of pictures",
    "fill": "fill the gaps of gridded data: NetCDF, Zarr, GeoTIFF, npy",
    "serve": "fill holes in the browser, or by HTTP, on this machine",
    "masks": "make mask files, from a seed or a video, and look at those of a folder",
    "eval": "print the paper's table for networks and baselines",
    "compare": "train the partial and the plain network alike and evaluate both",
    "convert": "read weights of other implementations",
    "export": "write a network as ONNX, or as a package of torch.export",
}


# verb -> how to go on after an interruption
_GO_ON = {
    "train": "the same command goes on from the newest checkpoint, and begins again where there is none yet",
    "quickstart": "the same command goes on from the newest checkpoint, and begins again where there is none yet",
    "eval": "the same command goes on with what is missing",
    "compare": "the same command goes on where it was stopped",
    "inpaint": "the same command with --skip-existing goes on with what is missing",
    "masks make": "the same command goes on with what is missing",
    "masks from-video": "the same command goes on with what is missing",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ").split()
        if len(words) < len(message.split()) and any(os.path.exists(word) for word in words):
            message += "; a verb takes one file, or a folder for several"  # as a shell makes several of *.jpg
        super().error(printable(message))  # the message holds what was typed


def build_parser() -> argparse.ArgumentParser:
    """The whole parser; verbs declare their options without importing anything heavy."""
    parser = _Parser(prog="pconv", description="Inpainting of irregular holes with partial convolutions.")
    parser.add_argument("--version", action="version", version=f"pconv {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        sub = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        module = importlib.import_module(f"pconv_cuda.cli.{name}")
        module.add_arguments(sub)
        sub.set_defaults(run=module.run, options={**options_of(sub), **getattr(module, "ARGUMENTS", {})})
    return parser


def options_of(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Library argument -> option of the verb, by the options' own names; ARGUMENTS has the exceptions."""
    names: dict[str, str] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                names |= options_of(sub)
        else:
            names[action.dest] = action.option_strings[0] if action.option_strings else str(action.metavar)
    return names


def _report_thread(failure: threading.ExceptHookArgs) -> None:
    """Silences errors of the system in threads: TensorBoard's writer raises them in the main thread too."""
    if not (isinstance(failure.exc_value, OSError) and system_error_text(failure.exc_value)):
        threading.__excepthook__(failure)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point.

    Returns:
        The exit code: 0 done, 1 the work failed, 2 the call was wrong, 128 and the signal's number if one ended it.
    """
    args: argparse.Namespace | None = None

    def interrupted(number: int) -> None:
        full = f"{args.verb} {getattr(args, 'action', '')}".strip() if args else ""
        remedy = f"; {_GO_ON[full]}" if full in _GO_ON else ""
        if args and full == "train" and args.resume != "auto":
            remedy += ", with --resume auto"
        _complain(args, f"interrupted ({signal.Signals(number).name}){remedy}")

    with standard_streams(), ending_signals(interrupted):
        try:
            try:
                args = build_parser().parse_args(argv)
            finally:
                _flush(args)  # --help and --version end here
            return _run(args) or _flush(args)
        except OSError as error:  # too many open files, while modules are imported
            if (text := system_error_text(error)) is None:
                raise
            _complain(args, f"error: {text}")
            return 1
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Interrupted) else int(signal.SIGINT)
            interrupted(number)
            if argv is None:  # a command of its own: the interpreter would wait for threads
                end_now(number)
            return 128 + number


def _run(args: argparse.Namespace) -> int:
    spin_briefly()
    # Without file, line number and source.
    warnings.formatwarning = lambda message, *_, **__: printable(  # type: ignore
        f"pconv {args.verb}: warning: {rename_arguments(str(message), args.options)}\n"
    )
    threading.excepthook = _report_thread
    try:
        return args.run(args)
    except PConvError as error:
        _complain(args, f"error: {rename_arguments(str(error), args.options)}")
    except ImportError as error:
        # A missing core dependency is a problem of the installation, not a bug: no traceback.
        if (error.name or "").partition(".")[0] not in ("torch", "torchvision", "numpy", "pconv_cuda", ""):
            raise
        _complain(args, f"error: {error}; `pconv info` says what is missing")
    except (OSError, RuntimeError, MemoryError) as error:
        text = system_error_text(error)
        if text is None:
            raise
        _complain(args, f"error: {text}")
    return 1


def _flush(args: argparse.Namespace | None) -> int:
    """0, or 1 where the output could not be written, such as into a file on a full disk."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _complain(args, f"error: {system_error_text(error) or error}")
        return 1
    return 0


def _complain(args: argparse.Namespace | None, text: str) -> None:
    name = f"pconv {args.verb}" if args else "pconv"
    print(printable(f"{name}: {text}"), file=sys.stderr)
