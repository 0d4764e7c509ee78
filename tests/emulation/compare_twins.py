"""Compares two outputs of ptx_twins bit by bit: the emulator's and a device's. Fails at any difference.

python compare_twins.py EMULATED.jsonl DEVICE.jsonl
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def read(path: str) -> dict[str, list[str]]:
    lines = [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
    return {line["wrapper"]: line["bits"] for line in lines}


def differences(emulated: dict[str, list[str]], device: dict[str, list[str]]) -> list[str]:
    found = [f"{name}: in one output only" for name in sorted(emulated.keys() ^ device.keys())]
    for name in sorted(emulated.keys() & device.keys()):
        ours, theirs = emulated[name], device[name]
        if len(ours) != len(theirs):
            found.append(f"{name}: {len(ours)} words and {len(theirs)}")
        wrong = [i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b]
        if wrong:
            first = wrong[0]
            found.append(f"{name}: {len(wrong)} of {len(ours)} words, first {first}: {ours[first]}, {theirs[first]}")
    return found


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    emulated, device = read(sys.argv[1]), read(sys.argv[2])
    found = differences(emulated, device)
    if not emulated:
        found.append(f"{sys.argv[1]} is empty")
    print("\n".join(found) or f"{len(emulated)} wrappers: the same bits")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
