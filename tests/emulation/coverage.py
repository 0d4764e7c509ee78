"""Fails where a kernel instantiation never ran, and names it.

Every emulated process writes what it launched into the folder that EMU_COVERAGE names (one `.kernels` file each:
the binary, then offset, times, name). This reads all of them, lists each binary's functions with nm, and compares:
an instantiation counts as run where any process of any binary ran it, so several drivers' lists merge.

    python coverage.py FOLDER [--only REGEX] [--binary PATH ...]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

# The name before template arguments and parameters ends in _kernel. Clones (.isra, .cold) are parts of another.
KERNEL = re.compile(r"(?:^|[\s:])\w+_kernel(?=[<(])")


def instantiations(binary: Path) -> dict[int, str]:
    """Offset in the file's memory image -> demangled signature, of every kernel in it."""
    listing = subprocess.run(["nm", "-C", "--defined-only", str(binary)], capture_output=True, text=True, check=True)
    found = {}
    for line in listing.stdout.splitlines():
        address, kind, signature = line.split(" ", 2)
        if kind in "tTwW" and "[clone" not in signature and _is_kernel(signature):
            found[int(address, 16)] = signature
    return found


def _is_kernel(signature: str) -> bool:
    signature = signature.replace("(anonymous namespace)::", "")
    match = KERNEL.search(signature)
    # Not a function that merely has a kernel among its template arguments or parameters; nor the emulator's own.
    return bool(match) and not re.search(r"[<(]", signature[: match.start()]) and not signature.startswith("emu::")


def records(folder: Path) -> list[tuple[Path, set[int]]]:
    """Binary and offsets that ran, for each record in the folder."""
    found = []
    for path in sorted(folder.glob("*.kernels")):
        header, *lines = path.read_text().splitlines()
        found.append((Path(header.removeprefix("binary ")), {int(line.split()[0], 16) for line in lines}))
    return found


def never_ran(folder: Path, more_binaries=(), only: str = "") -> tuple[list[str], int]:
    """Signatures that no process ran, and how many instantiations there are in all."""
    ran_at: dict[Path, set[int]] = {Path(binary).resolve(): set() for binary in more_binaries}
    for binary, offsets in records(folder):
        ran_at.setdefault(binary.resolve(), set()).update(offsets)
    known: set[str] = set()
    ran: set[str] = set()
    for binary, offsets in ran_at.items():
        kernels = {offset: name for offset, name in instantiations(binary).items() if re.search(only, name)}
        known |= set(kernels.values())
        ran |= {kernels[offset] for offset in offsets if offset in kernels}
    return sorted(known - ran), len(known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--binary", action="append", default=[], help="counts even if it never wrote a record")
    parser.add_argument("--only", default="", help="a regular expression that signatures have to contain")
    arguments = parser.parse_args()
    missing, total = never_ran(arguments.folder, arguments.binary, arguments.only)
    if total == 0:
        sys.exit(f"no kernel instantiation found: no record in {arguments.folder}, or nothing named *_kernel")
    for signature in missing:
        print(f"never ran: {signature}")
    print(f"{total - len(missing)} of {total} kernel instantiations ran")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
