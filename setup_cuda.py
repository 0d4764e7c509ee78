"""For setup.py: whether CUDA kernels are built, with which toolkit and for which architectures, and if not, why.
As a program it is the nvcc that compiles them: python setup_cuda.py NVCC ARGUMENTS...

Torch's own choice is not used. It guesses CUDA_HOME, stops where no GPU is present and no list is given, passes 7.5 on
to kernels that need 8.0, and 9.0 instead of 9.0a, which alone has wgmma.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# sm_80 kernels run on everything from Ampere on (8.6 and 8.9 through 8.0's binary, later ones through its PTX).
ARCHITECTURES = "8.0+PTX;9.0a;10.0;12.0"
OLDEST = 80
# The names that torch takes in TORCH_CUDA_ARCH_LIST.
NAMED = {
    "Kepler+Tesla": "3.7",
    "Kepler": "3.5+PTX",
    "Maxwell+Tegra": "5.3",
    "Maxwell": "5.0;5.2+PTX",
    "Pascal": "6.0;6.1+PTX",
    "Volta+Tegra": "7.2",
    "Volta": "7.0+PTX",
    "Turing": "7.5+PTX",
    "Ampere+Tegra": "8.7",
    "Ampere": "8.0;8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell+Tegra": "11.0",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
    "Rubin": "10.7+PTX",
}
# The toolkit headers that csrc/cuda includes.
TRIAL = """#include <cuda.h>
#include <cudaTypedefs.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
__global__ void trial(__nv_bfloat16* x) { *x = __float2bfloat16(1.f); }
void launch(__nv_bfloat16* x) { trial<<<1, 1>>>(x); }
"""


@dataclass
class Cuda:
    home: Path  # the toolkit's folder
    architectures: list[str]  # as in TORCH_CUDA_ARCH_LIST
    changes: str  # what is built differently from the list that was given


def stop(message: str) -> None:
    sys.exit(f"pconv_cuda: {message}")


def choose(torch: Any) -> tuple[Cuda | None, str]:
    """What to build CUDA kernels with, or None and the reason why there will be none."""
    wish = os.environ.get("PCONV_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        stop(f"PCONV_CUDA: expected auto, 0 or 1, got {wish!r}")
    if wish == "0":
        return None, "PCONV_CUDA=0"
    cuda, reason = find(torch)
    if cuda is None and wish == "1":
        stop(f"PCONV_CUDA=1 asks for CUDA kernels, but {reason}")
    return cuda, reason


def find(torch: Any) -> tuple[Cuda | None, str]:
    """The first toolkit that fits torch, knows an architecture of the list and compiles a file."""
    if torch.version.cuda is None:
        return None, "this torch was built without CUDA"
    wanted, reason = wanted_architectures(torch)
    if not wanted:
        return None, reason
    reasons: dict[Path, str] = {}  # several candidates may belong to one toolkit
    for nvcc in nvcc_candidates():
        home = cuda_home(nvcc)
        release = re.search(r"release (\d+)\.(\d+)", ask(nvcc, "--version"))
        if home is None or release is None:
            reasons[nvcc] = f"{nvcc} has no toolkit around it"
        elif home in reasons:
            continue
        elif release.group(1) != torch.version.cuda.split(".")[0]:
            version = ".".join(release.groups())
            reasons[home] = (
                f"{nvcc} is CUDA {version}, torch {torch.__version__} was built for CUDA {torch.version.cuda}"
            )
        else:
            cuda, reasons[home] = check_toolkit(home, wanted)
            if cuda is not None:
                return cuda, ""
    missing = f"no nvcc was found; install the CUDA {torch.version.cuda} toolkit or set CUDA_HOME"
    return None, "; ".join(reasons.values()) or missing


def check_toolkit(home: Path, wanted: list[str]) -> tuple[Cuda | None, str]:
    nvcc = home / "bin" / "nvcc"
    codes = re.findall(r"sm_(\d+)", ask(nvcc, "--list-gpu-code"))
    architectures, changes = usable(wanted, {int(code) for code in codes})
    if not architectures:
        return None, (
            f"{source()}: expected an architecture of 8.0 or later that {nvcc} knows, got {';'.join(wanted)!r}"
        )
    error = trial_error(nvcc, gencode(architectures[:1]))
    if error:
        return None, f"{nvcc} cannot compile: {error}"
    return Cuda(home, architectures, f"{source()}: {', '.join(changes)}" if changes else ""), ""


# Toolkits -------------------------------------------------------------------------------------------------------


def nvcc_candidates() -> list[Path]:
    """CUDA_HOME, an nvcc on PATH, the usual places, and the wheel nvidia-cuda-nvcc."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    found = [Path(home) / "bin" / "nvcc" for home in homes if home]
    on_path = shutil.which("nvcc")
    found += [Path(on_path)] if on_path else []
    found += [Path("/usr/local/cuda/bin/nvcc"), Path("/opt/cuda/bin/nvcc")]
    found += [path for entry in sys.path for path in Path(entry or ".").glob("nvidia/c*/bin/nvcc")]
    return [path for path in found if path.is_file()]


def ask(nvcc: Path, *arguments: str) -> str:
    """What nvcc prints; nothing where it cannot be run."""
    try:
        done = subprocess.run([nvcc, *arguments], capture_output=True, text=True, errors="replace")
    except OSError:
        return ""
    return done.stdout + done.stderr


def cuda_home(nvcc: Path) -> Path | None:
    """Where this nvcc's toolkit lies. It is asked: an nvcc on PATH may be a script that stands somewhere else."""
    top = re.search(r"^#\$ TOP=(.+)$", ask(nvcc, "--dryrun", "any.cu"), re.MULTILINE)
    home = Path(top.group(1)).resolve() if top else nvcc.resolve().parents[1]
    return home if (home / "include" / "cuda_runtime_api.h").is_file() else None


def trial_error(nvcc: Path, flags: list[str]) -> str:
    """The first error of a small file, or nothing: the host compiler may be too new, headers may be missing."""
    compiler = os.environ.get("CC")  # torch passes it on in the same way
    host = ["-ccbin", compiler] if compiler else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trial.cu"
        path.write_text(TRIAL)
        command = [nvcc, "-std=c++17", *flags, *host, "-c", path, "-o", path.with_suffix(".o")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        except OSError as error:
            return str(error)
        if done.returncode == 0:
            return ""
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|fatal|not found|no such file", line, re.IGNORECASE)]
    first = (errors or lines or [f"exit code {done.returncode} and no message"])[0]
    return first.replace(f"{folder}/", "")[:300]


# Architectures --------------------------------------------------------------------------------------------------


def source() -> str:
    """Who made the list, for messages."""
    return "TORCH_CUDA_ARCH_LIST" if given_list() else "the default architectures"


def given_list() -> str:
    return os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()


def wanted_architectures(torch: Any) -> tuple[list[str], str]:
    """The entries of the list, names expanded; or none and the reason."""
    given = given_list()
    if given == "native":
        count = torch.cuda.device_count()
        devices = [torch.cuda.get_device_capability(index) for index in range(count)]
        found = [f"{major}.{minor}" for major, minor in sorted(set(devices))]
        reason = "TORCH_CUDA_ARCH_LIST: expected a list or a GPU, got native and no GPU"
        return found, "" if found else reason
    entries = split(given or ARCHITECTURES)
    wanted = split(";".join(NAMED.get(entry, entry) for entry in entries))
    for entry in wanted:
        if not re.fullmatch(r"\d+\.\d[a]?(\+PTX)?", entry):
            stop(
                "TORCH_CUDA_ARCH_LIST: expected entries such as 8.0, 9.0a, 12.0+PTX or Ampere, separated by spaces or "
                f"semicolons, got {entry!r} in {given!r}"
            )
    return wanted, "" if wanted else f"TORCH_CUDA_ARCH_LIST: expected at least one entry, got {given!r}"


def split(entries: str) -> list[str]:
    return [entry for entry in entries.replace(" ", ";").split(";") if entry]


def usable(wanted: Iterable[str], known: set[int]) -> tuple[list[str], list[str]]:
    """The entries that the kernels and this nvcc can be built for, each once; and what was dropped or changed."""
    with_ptx: dict[str, bool] = {}
    changes: list[str] = []
    for entry in wanted:
        name, ptx = entry.removesuffix("+PTX"), entry.endswith("+PTX")
        number = int(re.sub(r"\D", "", name))
        if number < OLDEST or number not in known:
            changes.append(f"{entry} left out ({'below 8.0' if number < OLDEST else 'unknown to this nvcc'})")
            continue
        if name == "9.0":
            name = "9.0a"
            changes.append("9.0 built as 9.0a, which wgmma needs")
        with_ptx[name] = with_ptx.get(name, False) or ptx
    return [name + ("+PTX" if ptx else "") for name, ptx in with_ptx.items()], list(dict.fromkeys(changes))


def gencode(architectures: Iterable[str]) -> list[str]:
    """nvcc's options. With these torch adds none of its own."""
    flags = []
    for entry in architectures:
        number = entry.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if entry.endswith("+PTX"):
            # PTX of 9.0a would run on 9.0 alone; that of 9.0 runs on later devices too.
            number = "90" if number == "90a" else number
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


# As a program -----------------------------------------------------------------------------------------------------


def with_shared_ptx(arguments: list[str]) -> list[str]:
    """nvcc's arguments, with machine code made from the PTX of the oldest architecture of the list that has the same.

    nvcc compiles to PTX once for each `arch=`, which is two thirds of a file's time. Of kernels without instructions
    of sm_90a that PTX is the same below 10.0, but for the line .target and the way bf16 is widened (a shift, or a
    conversion that becomes one), and again from 10.0 on, where another optimiser writes it. Kernels with such
    instructions are in files named sm90_*.
    """
    for_sm90a = any(Path(word).name.startswith("sm90_") and word.endswith(".cu") for word in arguments)
    pattern = re.compile(r"-gencode=arch=compute_(\d+)(a?),code=sm_(\d+a?)")
    found = {word: match for word in arguments if (match := pattern.fullmatch(word))}

    def kind(match: re.Match[str]) -> object:
        return "sm_90a" if for_sm90a and match[2] else int(match[1]) >= 100

    oldest: dict[object, tuple[int, str]] = {}
    for match in found.values():
        virtual = (int(match[1]), match[2])
        oldest[kind(match)] = min(oldest.get(kind(match), virtual), virtual)

    def shared(match: re.Match[str]) -> str:
        number, suffix = oldest[kind(match)]
        return f"-gencode=arch=compute_{number}{suffix},code=sm_{match[3]}"

    return [shared(found[word]) if word in found else word for word in arguments]


def nvcc_command(home: Path) -> str:
    """For torch, which takes the compiler's command from PYTORCH_NVCC."""
    return shlex.join([sys.executable, str(Path(__file__).resolve()), str(home / "bin" / "nvcc")])


if __name__ == "__main__":
    os.execv(sys.argv[1], [sys.argv[1], *with_shared_ptx(sys.argv[2:])])
