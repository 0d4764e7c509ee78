"""Machine code of an extension, a cubin or a file of SASS, as instructions with the control codes that ptxas wrote.

Every instruction carries: the cycles that its warp waits afterwards (stall), the scoreboard barriers that it sets when
its result is there (write) and when its operands have been read (read), and those that it waits for (a mask of six).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pconv_cuda.errors import PConvError

FEW = 20


@dataclass(frozen=True)
class Instruction:
    """``name`` is the opcode with its modifiers, ``guard`` the predicate before it or ""."""

    address: int
    guard: str
    name: str
    operands: str
    stall: int
    write: int
    read: int
    wait: int

    @cached_property
    def opcode(self) -> str:
        return self.name.split(".")[0]

    @cached_property
    def target(self) -> int | None:
        """Where a branch leads."""
        found = re.search(r"0x([0-9a-f]+)$", self.operands)
        return int(found.group(1), 16) if found else None

    @property
    def never(self) -> bool:
        return self.guard == "!PT"


@dataclass(frozen=True)
class Kernel:
    """``name`` as the compiler mangled it."""

    name: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class Resources:
    registers: int
    stack: int
    shared: int  # static; kernels of ours ask for theirs at the launch
    local: int

    @property
    def spills(self) -> bool:
        return self.stack > 0 or self.local > 0


LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);\s*/\* (0x[0-9a-f]{16}) \*/")
SECOND = re.compile(r"\s*/\* (0x[0-9a-f]{16}) \*/")
FUNCTION = re.compile(r"^\s*Function : (\S+)\s*$", re.MULTILINE)


def instructions(code: str) -> Iterator[Instruction]:
    """Those of one function's listing: two lines each, the second with the upper half of the encoding."""
    lines = iter(code.splitlines())
    for line in lines:
        first = LINE.match(line)
        second = SECOND.match(next(lines, "")) if first else None
        if not first or not second:
            continue
        control = int(second.group(1), 16) >> 41
        yield Instruction(
            address=int(first.group(1), 16), guard=first.group(2) or "", name=first.group(3),
            operands=first.group(4).strip(), stall=control & 15, write=control >> 5 & 7, read=control >> 8 & 7,
            wait=control >> 11 & 63,
        )  # fmt: skip


def listings(text: str) -> dict[str, str]:
    """Function -> its part of what ``cuobjdump -sass`` prints."""
    parts = FUNCTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def parse(text: str) -> list[Kernel]:
    return [Kernel(name, tuple(instructions(code))) for name, code in listings(text).items()]


def tool(name: str) -> str:
    """CUDA's own, or the one inside the package triton."""
    on_path = shutil.which(name)
    if on_path:
        return on_path
    for entry in sys.path:
        found = Path(entry) / "triton" / "backends" / "nvidia" / "bin" / name
        if found.is_file():
            return str(found)
    raise PConvError(f"static model: {name} is neither on PATH nor in the package triton; install triton or CUDA")


def ask(program: str, *arguments: str) -> str:
    done = subprocess.run([tool(program), *arguments], capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word of why"]
        raise PConvError(f"static model: {program} could not read {arguments[-1]}: {said[-1]}")
    return done.stdout


def demangle(names: Iterable[str]) -> dict[str, str]:
    """Readable names; as they are where c++filt is missing. Hashes of anonymous namespaces are left out."""
    given = list(names)
    if not given or not shutil.which("c++filt"):
        return {name: name for name in given}
    said = subprocess.run(["c++filt"], input="\n".join(given), capture_output=True, text=True, check=True).stdout
    return {name: short(text) for name, text in zip(given, said.splitlines(), strict=True)}


def short(name: str) -> str:
    """Without namespaces, enumerations' types, return type and parameters."""
    for part in ("pconv::cuda::", "pconv::", "(anonymous namespace)::", "(Pass)", "(Filters)"):
        name = name.replace(part, "")
    name = re.sub(r"^void ", "", name).replace("> >", ">>").replace("> >", ">>")
    depth = 0
    for at, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:at]
    return name


def stable(name: str) -> str:
    """A mangled name without the hash of the compilation, which differs from build to build."""
    return re.sub(r"_GLOBAL__N__[0-9a-f]+_\d+_\w+?_cu_[0-9a-f]+(_\d+)?", "ANON", name)


def usage(text: str) -> dict[tuple[str, str], Resources]:
    """(architecture, kernel) -> resources, of what ``cuobjdump --dump-resource-usage`` prints."""
    found: dict[tuple[str, str], Resources] = {}
    arch = name = ""
    for line in text.splitlines():
        if line.startswith("arch = "):
            arch = line.removeprefix("arch = ").strip()
        elif match := re.match(r"\s*Function (\S+):", line):
            name = match.group(1)
        elif "REG:" in line and name:
            of = {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", line)}
            found[arch, name] = Resources(of["REG"], of["STACK"], of["SHARED"], of["LOCAL"])
            name = ""
    return found


class Binary:
    """An extension or a cubin, asked through cuobjdump; kernels are read when they are wanted."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise PConvError(f"static model: {path} is not a file")
        self.path = path
        self._kernels: dict[tuple[str, str], Kernel] = {}

    @cached_property
    def resources(self) -> dict[tuple[str, str], Resources]:
        found = usage(ask("cuobjdump", "--dump-resource-usage", str(self.path)))
        if any(arch == "" for arch, _ in found):  # a cubin, of one architecture, which the list of its parts names
            named = re.search(r"\.(sm_\w+)\.cubin", ask("cuobjdump", "-lelf", str(self.path)))
            found = {(named.group(1) if named else "", name): of for (_, name), of in found.items()}
        return found

    @cached_property
    def readable(self) -> dict[str, str]:
        return demangle(sorted({name for _, name in self.resources}))

    def architectures(self) -> list[str]:
        return sorted({arch for arch, _ in self.resources})

    def find(self, arch: str, pattern: str) -> list[str]:
        """Mangled names of the kernels on ``arch`` whose readable name the pattern is found in."""
        return [name for where, name in self.resources if where == arch and re.search(pattern, self.readable[name])]

    def listings(self, arch: str, names: Iterable[str]) -> dict[str, str]:
        wanted = list(names)
        chosen = ["-fun", ",".join(wanted)] if len(wanted) <= FEW else []  # to look for many takes longer than all
        return listings(ask("cuobjdump", "-sass", "-arch", arch, *chosen, str(self.path))) if wanted else {}

    def kernels(self, arch: str, names: Iterable[str]) -> list[Kernel]:
        wanted = list(dict.fromkeys(names))
        missing = [name for name in wanted if (arch, name) not in self._kernels]
        code = self.listings(arch, missing)
        for name in missing:
            self._kernels[arch, name] = Kernel(name, tuple(instructions(code[name])))
        return [self._kernels[arch, name] for name in wanted]


def built_extension() -> Path:
    """The package's CUDA extension."""
    import pconv_cuda

    found = sorted(Path(pconv_cuda.__file__).parent.glob("_C_cuda*.so"))
    if not found:
        raise PConvError("static model: there is no pconv_cuda/_C_cuda*.so; build with PCONV_CUDA=1 (CONTRIBUTING.md)")
    return found[0]
