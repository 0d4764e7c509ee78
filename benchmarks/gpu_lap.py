"""One run on a machine with a GPU, in two independent parts.

    python -m benchmarks.gpu_lap [--part check|speed] [--out FOLDER] [--seconds N] [--rehearse]

check (310 s): build for this GPU; every PTX wrapper against its emulated twin, bit by bit; the kernels' own drivers;
every layer and stage at real size, in every precision, against float64; every tile against the plan's; the tests on the
device; memcheck.
speed (250 s): layers; networks and stages under CUDA graphs; what choosing by measurement gains; every tile; pictures;
ncu; rivals under torch.compile; the kernels of a network one by one. A stage that fails does not end the run. Without
a GPU it says "not measured" and ends well; ``--rehearse`` walks every stage there, with stand-ins for the device.
FOLDER gets at most 8 files a part: check or speed.json, report.md; accuracy, agreement; or layers, networks, chosen,
tiles, kernels and ncu.csv.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SECONDS = {"check": 310.0, "speed": 250.0}


def conditions(session: Any) -> dict[str, Any]:
    import torch

    asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.mem,temperature.gpu", "--format=csv,noheader"]
    return {
        "device": torch.cuda.get_device_name(), "date": time.strftime("%Y-%m-%d"), "torch": torch.__version__,
        "python": platform.python_version(), "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
        "driver, clocks, temperature": session.run(asked, limit=10).last_line,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(SECONDS), help="by default both, one after the other")
    parser.add_argument("--out", type=Path, default=Path("gpu_lap"), help="folder for the results (default gpu_lap)")
    parser.add_argument("--seconds", type=float, help="for each part (default: check 310, speed 250)")
    parser.add_argument("--rehearse", action="store_true", help="walk every stage without a GPU; numbers mean nothing")
    args = parser.parse_args()
    if args.rehearse:
        os.environ["PCONV_REHEARSE"] = "1"  # before benchmarks.gpu.device is imported, here and in every child
    from benchmarks.gpu import check, device, rehearsal, speed, table
    from benchmarks.gpu.session import Session, write

    if not device.is_there():
        print("not measured: torch sees no GPU")
        return 0
    out, failed = args.out.resolve(), []
    parts = {"check": check.check, "speed": speed.speed}
    for name in [args.part] if args.part else parts:
        seconds = args.seconds or (3600 if args.rehearse else SECONDS[name])
        with tempfile.TemporaryDirectory() as work, rehearsal.tools(Path(work), args.rehearse):
            session = Session(name, out, Path(work), seconds, args.rehearse)
            session.report.update(conditions(session))
            parts[name](session)
            session.report["seconds"] = round(seconds - session.left(), 1)
            write(out / f"{name}.json", json.dumps(session.report, indent=1) + "\n")
            write(out / "report.md", table.report(out))
            failed += session.failed()
    print(f"failed: {', '.join(failed)}" if failed else f"results in {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
