"""Inspects a built CUDA extension: architectures, spills, and the instructions that tensor-core kernels are made of.

python tests/cuda_objects.py pconv_cuda/_C_cuda*.so
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ARCHITECTURES = ("sm_80", "sm_90a", "sm_100", "sm_120")

# What a kernel's machine code has to hold, by a part of its mangled name; the first rule that fits counts.
# HMMA multiplies, LDSM is ldmatrix, LDGSTS is cp.async; HGMMA and UTMALDG are wgmma and TMA, on sm_90a alone.
INSTRUCTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (r"wgmma\w*_kernel", "sm_90a", ("HGMMA", "LDGSTS", "UTMALDG")),
    (r"wgmma\w*_kernel", ".*", ()),  # empty where there is no wgmma
    (r"wgrad_kernelI\w*4Tf32", ".*", ("HMMA", "LDGSTS")),  # ldmatrix cannot transpose 32-bit elements
    (r"(?:gemm|wgrad)_kernelI\w*(?:4Bf16|4Half|4Tf32)", ".*", ("HMMA", "LDSM", "LDGSTS")),
    (r"gemm_kernelI\w*4Ieee|wgrad_kernelI\w*4Ieee", ".*", ("FFMA", "LDGSTS")),
)


def cuobjdump() -> str | None:
    """CUDA's own, or the one inside the package triton."""
    on_path = shutil.which("cuobjdump")
    if on_path:
        return on_path
    for entry in sys.path:
        found = Path(entry) / "triton" / "backends" / "nvidia" / "bin" / "cuobjdump"
        if found.is_file():
            return str(found)
    return None


def resources(text: str) -> Iterator[tuple[str, str, dict[str, int]]]:
    """(architecture, kernel, {REG, STACK, LOCAL, ...}) of every line of cuobjdump --dump-resource-usage."""
    arch = name = ""
    for line in text.splitlines():
        if line.startswith("arch = "):
            arch = line.removeprefix("arch = ").strip()
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match.group(1)
        elif "REG:" in line and name:
            yield arch, name, {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
            name = ""


def code_by_kernel(sass: str) -> dict[str, str]:
    """Kernel -> its machine code as text."""
    parts = re.split(r"^\s*Function : (\S+)$", sass, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def missing_instructions(arch: str, name: str, code: str) -> list[str]:
    for pattern, where, wanted in INSTRUCTIONS:
        if re.search(pattern, name) and re.fullmatch(where, arch):
            return [word for word in wanted if not re.search(rf"\b{word}\b", code)]
    return []


def problems(usage: str, sass: dict[str, str]) -> tuple[list[str], int]:
    """What is wrong, and how many (architecture, kernel) pairs were looked at."""
    found: list[str] = []
    kernels: dict[str, set[str]] = {}
    for arch, name, used in resources(usage):
        kernels.setdefault(arch, set()).add(re.sub(r"_GLOBAL__N__\w+?_cu_[0-9a-f]+", "", name))
        if used.get("STACK") or used.get("LOCAL"):
            found.append(f"{arch}: {name} spills: {used}")
    absent = [arch for arch in ARCHITECTURES if arch not in kernels]
    found += [f"nothing was compiled for {arch}" for arch in absent]
    everything = set().union(*kernels.values())
    for arch, names in kernels.items():
        found += [f"{arch}: {name} is missing" for name in sorted(everything - names)]
    tensor_core = 0
    for arch, text in sass.items():
        for name, code in code_by_kernel(text).items():
            lacking = missing_instructions(arch, name, code)
            tensor_core += any(re.search(pattern, name) for pattern, *_ in INSTRUCTIONS)
            found += [f"{arch}: {name} has no {word}" for word in lacking]
    if tensor_core == 0:
        found.append("no tensor-core kernel was found")
    return found, sum(map(len, kernels.values()))


def some_of_each_rule(usage: str, arch: str, count: int) -> list[str]:
    """Names of kernels on `arch` that INSTRUCTIONS has a rule for, up to `count` for each rule, far apart."""
    by_rule: dict[str, list[str]] = {}
    for where, name, _ in resources(usage):
        rule = next((pattern for pattern, archs, _ in INSTRUCTIONS
                     if re.search(pattern, name) and re.fullmatch(archs, arch)), None)  # fmt: skip
        if where == arch and rule is not None:
            by_rule.setdefault(rule, []).append(name)
    return [name for names in by_rule.values() for name in names[:: -(-len(names) // count)]]


def inspect(
    extension: Path, sass_of: Iterable[str] = ARCHITECTURES, of_each_rule: int | None = None
) -> tuple[list[str], int]:
    """Resources of every architecture, and instructions of those in `sass_of`, which takes longer.

    With `of_each_rule` the instructions of so many kernels alone: all of one architecture are 90 MB of text.
    """
    tool = cuobjdump()
    if tool is None:
        raise FileNotFoundError("cuobjdump: neither on PATH nor in the package triton")

    def ask(*options: str) -> str:
        return subprocess.run([tool, *options, str(extension)], capture_output=True, text=True, check=True).stdout

    usage, sass = ask("--dump-resource-usage"), {}
    for arch in sass_of:
        chosen = some_of_each_rule(usage, arch, of_each_rule) if of_each_rule else []
        sass[arch] = ask("-sass", "-arch", arch, *(["-fun", ",".join(chosen)] if chosen else []))
    return problems(usage, sass)


if __name__ == "__main__":
    errors, looked_at = inspect(Path(sys.argv[1]))
    print("\n".join(errors) or f"{looked_at} kernels, no spills, all instructions present")
    sys.exit(bool(errors))
