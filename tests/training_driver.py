"""Trains without interruption, then killed at every moment that matters, and at random ones, and resumed.

    python training_driver.py SETTINGS.json FOLDER some|others

Not a test itself: `test_train_resume.py` starts it and compares what lies in FOLDER. Every training is a
process of its own, forked after the imports, which take longer than a training of this size. "some" kills at every
seventh of the moments, "others" at those between.
"""

from __future__ import annotations

import importlib
import json
import os
import pathlib
import random
import signal
import sys
import time
import traceback

import torch
from accelerate import Accelerator

from pconv_cuda.data.images import load_rgb
from pconv_cuda.training import load_config, train


class KillPoints:
    """Counts the moments at which a kill could leave a mess, and kills at number ``kill_at``."""

    def __init__(self, kill_at: int | None, count_file: str) -> None:
        self.kill_at, self.count, self.count_file = kill_at, 0, count_file
        for owner, name in [
            (os, "fsync"),
            (os, "replace"),
            (os, "link"),
            (torch, "save"),
            (pathlib.Path, "unlink"),
            (torch.optim.Adam, "step"),
        ]:
            setattr(owner, name, self._before(getattr(owner, name)))

    def _before(self, function):
        def counted(*args, **kwargs):
            if self.count == self.kill_at:
                if function.__name__ == "save":  # half of the bytes are there when the kill comes
                    args[1].write(b"half a checkpoint")
                    args[1].flush()
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1
            return function(*args, **kwargs)

        return counted

    def report(self) -> None:
        pathlib.Path(self.count_file).write_text(str(self.count))


def run(settings: dict, out: pathlib.Path, kill_at: int | None = None, kill_after: float | None = None) -> dict:
    """One training in a process of its own. Returns its exit status, kill points and seconds."""
    started, count_file = time.monotonic(), out.with_suffix(".points")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            points = KillPoints(kill_at, str(count_file))
            train(load_config(settings=[f"{key}={value}" for key, value in settings.items()]), out)
            points.report()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    exit_code = os.waitstatus_to_exitcode(status)
    points = int(count_file.read_text()) if exit_code == 0 else 0
    return {"exit": exit_code, "points": points, "seconds": time.monotonic() - started}


def import_what_trainings_import(settings: dict) -> None:
    """Once, here, not in each child; nothing that computes, for a fork does not carry threads along."""
    Accelerator(cpu=True)
    load_rgb(next(pathlib.Path(settings["data.images"]).iterdir()))
    importlib.import_module("safetensors.torch")
    importlib.import_module("torch._dynamo")


def main() -> None:
    torch.set_num_threads(1)
    settings, folder = json.loads(pathlib.Path(sys.argv[1]).read_text()), pathlib.Path(sys.argv[2])
    import_what_trainings_import(settings)
    whole = run(settings, folder / "whole")
    at_points = {}
    for point in range(whole["points"]):
        if (point % 7 == 0) != (sys.argv[3] == "some"):
            continue
        out = folder / f"killed-{point:02d}"
        at_points[out.name] = [run(settings, out, kill_at=point)["exit"], run(settings, out)["exit"]]
    at_random, rng = [], random.Random(0)
    while not at_random or at_random[-1] != 0:
        delay = rng.uniform(0.3, 1.2) * whole["seconds"]
        at_random.append(run(settings, folder / "random", kill_after=delay)["exit"])
        if len(at_random) == 12:  # a slow machine may never get through; then it is let through
            at_random.append(run(settings, folder / "random")["exit"])
            break
    print(json.dumps({"whole": whole, "at_points": at_points, "at_random": at_random}))


if __name__ == "__main__":
    main()
