"""Builds emulated drivers: the kernels' sources, a driver and the runtime, with g++ alone.

    rel   -O2, for numbers under every policy
    asan  -O1, AddressSanitizer and UndefinedBehaviorSanitizer, the first finding ends the run
    tsan  -O1, ThreadSanitizer; run it with `run_environment("tsan")` and behind `command_prefix("tsan")`

Objects are kept by the hash of everything that went into them, so a second build costs a preprocessor run a file.
As a program: python build.py VARIANT OUT_DIR SOURCE... [-DNAME ...] [--planted] [--shared]
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

from emulation import rewrites  # noqa: E402

ROOT = HERE.parents[1]
COMPILER = os.environ.get("CXX", "g++")
AT_MOST_AT_ONCE = 2

COMMON = [
    "-std=c++17",
    "-g1",  # lines and inlined calls, which is all that reports need
    "-DPCONV_EMULATE",
    f"-I{HERE}",
    "-Wall",
    "-Wno-unknown-pragmas",  # #pragma unroll
    "-fno-strict-aliasing",  # as nvcc: shared memory is bytes that kernels see as many types
    "-fno-ipa-icf",  # every instantiation keeps an address of its own, for coverage.py
    "-fPIC",
]
OPTIMISE = {"rel": ["-O2"], "asan": ["-O1"], "tsan": ["-O1"]}
SANITIZE = {
    "rel": [],
    "asan": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "tsan": ["-fsanitize=thread"],
}
RUNTIME_DEFINE = {"rel": [], "asan": ["-DEMU_ASAN"], "tsan": ["-DEMU_TSAN"]}
# The runtime is never instrumented: it reads and writes all threads' stacks on purpose. Nor may its loops become
# calls of memcpy, which ThreadSanitizer intercepts wherever they are.
RUNTIME_FLAGS = ["-O2", "-fno-tree-loop-distribute-patterns"]


def build(
    variant: str, out_dir, sources, defines=(), planted: bool = False, shared: bool = False, extra=(), libraries=()
) -> Path:
    """The path of the executable (or shared library) made of `sources` in this variant.

    `defines` are NAME or NAME=VALUE, `extra` more compiler flags, for the sources alone; `libraries` go to the
    linker. `planted` compiles csrc with all planted mistakes in it, asleep (rewrites.py). RuntimeError with the
    compiler's message where something does not compile."""
    if variant not in OPTIMISE:
        raise ValueError(f"variant: expected one of {', '.join(OPTIMISE)}, got {variant!r}")
    if shared and variant != "rel":
        raise ValueError("a shared library is built of the rel variant only: a sanitizer must be there from the start")
    out_dir = Path(out_dir).resolve()
    out_dir.mkdir(parents=True, exist_ok=True)
    csrc = rewrites.plant(out_dir) if planted else rewrites.CSRC
    own = [f"-I{csrc}", *OPTIMISE[variant], *SANITIZE[variant], *(f"-D{name}" for name in defines), *extra]
    jobs = [(_inside(csrc, Path(source).resolve()), own) for source in sources]
    jobs += [(path, [*RUNTIME_FLAGS, *RUNTIME_DEFINE[variant]]) for path in sorted((HERE / "runtime").glob("*.cpp"))]
    with ThreadPoolExecutor(AT_MOST_AT_ONCE) as pool:
        objects = list(pool.map(lambda job: _object(out_dir, csrc, *job), jobs))

    mode = ["-shared", "-Wl,-z,defs"] if shared else ["-pie"]
    link = [COMPILER, *SANITIZE[variant], *mode, *map(str, objects), *libraries]
    name = f"{Path(sources[0]).stem}-{variant}-{_digest(*map(str, link))}" + (".so" if shared else "")
    target = out_dir / name
    with _alone(target):
        if not target.exists():
            _run([*link, "-o", str(_unfinished(target))])
            os.replace(_unfinished(target), target)
    return target


def command_prefix(variant: str) -> list[str]:
    """What to put before a command: ThreadSanitizer does not run everywhere with randomised addresses."""
    setarch = shutil.which("setarch")
    if variant != "tsan" or not setarch:
        return []
    works = subprocess.run([setarch, "-R", "true"], capture_output=True).returncode == 0
    return [setarch, "-R"] if works else []


def run_environment(variant: str, policy: int | None = None) -> dict[str, str]:
    environment = dict(os.environ)
    if policy is not None:
        environment["EMU_POLICY"] = str(policy)
    if variant == "tsan":
        environment["TSAN_OPTIONS"] = "history_size=7 halt_on_error=1"
    return environment


def _inside(csrc: Path, source: Path) -> Path:
    return csrc / source.relative_to(rewrites.CSRC) if source.is_relative_to(rewrites.CSRC) else source


def _object(out_dir: Path, csrc: Path, source: Path, flags: list[str]) -> Path:
    # The preprocessed text holds every header, so its hash is that of all that matters; line marks included. Where
    # headers were looked for does not matter: kernels are the same in drivers and in torch's library. Nor does the
    # name of a copy of csrc, which changes with every file of it.
    command = [COMPILER, *COMMON, *flags, "-x", "c++"]
    text = _run([*command, "-E", str(source)]).replace(str(csrc), "csrc")
    target = out_dir / f"{source.stem}-{_digest(*(word for word in command if word[:2] != '-I'), text)}.o"
    with _alone(target):
        if not target.exists():
            _run([*command, "-c", str(source), "-o", str(_unfinished(target))])
            os.replace(_unfinished(target), target)
    return target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Several test processes share a folder: what one of them compiles, the others wait for."""
    with open(target.with_name(f".{target.name}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go where the file is closed
        yield


def _unfinished(target: Path) -> Path:
    return target.with_name(f".{target.name}.{os.getpid()}")


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=OPTIMISE)
    parser.add_argument("out_dir")
    parser.add_argument("sources", nargs="+")
    parser.add_argument("-D", dest="defines", action="append", default=[], metavar="NAME[=VALUE]")
    parser.add_argument("--planted", action="store_true", help="with the planted mistakes, asleep")
    parser.add_argument("--shared", action="store_true")
    given = parser.parse_args()
    try:
        print(build(given.variant, given.out_dir, given.sources, given.defines, given.planted, given.shared))
    except (RuntimeError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
