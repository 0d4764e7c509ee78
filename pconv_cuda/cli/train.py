"""``pconv train``: a network by the paper's recipe or your own configuration."""

from __future__ import annotations

import argparse

_EPILOG = """\
examples:
  pconv train --print-config > run.yaml
  pconv train --data photos/ --out runs/first --set data.size=256 --set model.levels=7
  pconv train --data photos/ --out runs/first --resume auto      goes on where it was stopped
  pconv train --recipe grid --data tas.nc --var tas --masks observed --out runs/tas      then: pconv fill --weights
  torchrun --nproc-per-node 4 -m pconv_cuda train --data photos/ --out runs/first --config run.yaml
"""

# "config:" begins what is wrong with a key, whichever option set it
ARGUMENTS = {"path": "--config", "settings": "--set", "config": "config"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EPILOG
    add = parser.add_argument
    add(
        "--data",
        metavar="DIR|packaged|documents|FILE",
        help="training pictures: a folder, packaged photographs, drawn pages; or gridded data: .nc, .zarr, .tif, .npy",
    )
    add("--var", metavar="NAME", help="the variable of a file of gridded data (default: the only one that is a grid)")
    add(
        "--masks",
        metavar="DIR|KIND",
        help="mask files (white is the hole), or a kind drawn on line: strokes, occlusion (the paper's family), mixed, "
        "damage (of old pages); observed: the gaps that other steps of gridded data have",
    )
    add("--out", metavar="RUN", help="folder of the run: weights, checkpoints, logs")
    add(
        "--recipe",
        metavar="paper|small|grid",
        default="paper",
        help="defaults of every key: the paper's, or a small network that adds to the smooth fill, for pictures or for "
        "gridded data (default: paper)",
    )
    add("--config", metavar="FILE", help="YAML; what it leaves out is as in the recipe")
    add(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="a key of the configuration; repeatable",
    )
    add("--steps", metavar="N", type=int, help="steps of the whole run (train.steps)")
    add("--sync-bn", action="store_true", help="BatchNorm statistics over all processes (GPUs only)")
    add("--resume", metavar="auto|never|PATH", default="auto", help="where to go on from (default: auto)")
    add("--print-config", action="store_true", help="print the configuration as YAML and stop")


def run(args: argparse.Namespace) -> int:
    from pconv_cuda.errors import PConvError
    from pconv_cuda.training.config import load_config, to_yaml

    named = {"data.images": args.data, "data.variable": args.var, "data.masks": args.masks, "train.steps": args.steps}
    overrides = {key: value for key, value in named.items() if value is not None}
    if args.sync_bn:
        overrides["train.batch_norm"] = "sync"
    config = load_config(args.config, args.set, overrides, recipe=args.recipe)
    if args.print_config:
        print(to_yaml(config), end="")
        return 0
    if args.out is None:
        raise PConvError("--out: expected the folder of the run, got nothing")

    from pconv_cuda import backends
    from pconv_cuda.training.loop import train

    backends.benchmark = True  # every step has the same sizes
    train(config, args.out, args.resume)
    return 0
