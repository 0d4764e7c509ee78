"""The emulated programs, each built once a session (or once for good, in the folder PCONV_EMULATION_BUILD)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from threading import Lock

import pytest

from emulation import build, export_cases

HERE = Path(__file__).resolve().parent
KERNELS = HERE.parents[1] / "csrc" / "cuda"
PLAIN = ["counts.cu", "windows.cu", "composed.cu", "pack.cu", "splits.cu", "scale_gradient.cu"]

# The planted mistakes are compiled into the drivers, asleep (rewrites.py); what ships is compiled without them
# (test_glue.py in the full tier).
ALL = [*sorted(KERNELS.rglob("*.cu")), *sorted(KERNELS.rglob("*.cpp"))]
SOURCES = {
    "operators": [HERE / "operators.cpp", *ALL],
    "test_edge_layers": [HERE / "test_edge_layers.cpp", *ALL],
    "test_upcat": [HERE / "test_upcat.cpp", *ALL],
    "test_upcat_backward": [HERE / "test_upcat_backward.cpp", *ALL],
    "test_smooth": [HERE / "test_smooth.cpp", *sorted(KERNELS.rglob("*smooth*.c*"))],
    "test_plain": [*sorted(HERE.glob("test_plain*.cpp")), *(KERNELS / "passes" / name for name in PLAIN)],
}


@pytest.fixture(scope="session")
def cases_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """tests/cases.py as text, for each architecture."""
    folder = tmp_path_factory.mktemp("cases")
    for arch in ("80", "90"):
        export_cases.export(folder / arch, arch)
    return {arch: folder / arch for arch in ("80", "90")}


@pytest.fixture(scope="session")
def coverage_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("coverage")


@pytest.fixture(scope="session")
def run_kernels(build_folder: Path, cases_files: dict[str, Path], coverage_folder: Path):
    """run_kernels("rel", "operators", "--quick", policy=1, plant=3) runs a driver and returns the finished process."""

    programs: dict[tuple[str, str], Path] = {}
    building = Lock()  # a program that two threads ask for is built once

    def run(
        variant: str, name: str, *arguments: str, policy: int = 2, plant: int = 0, limit: float = 600, **variables: str
    ):
        with building:
            if (variant, name) not in programs:
                programs[variant, name] = build.build(variant, build_folder, SOURCES[name], planted=True)
        program = programs[variant, name]
        environment = {**build.run_environment(variant, policy), **variables}
        if plant:
            environment["PCONV_PLANTED"] = str(plant)
        elif variant == "rel":
            environment["EMU_COVERAGE"] = str(coverage_folder)
        arch = arguments[arguments.index("--arch") + 1] if "--arch" in arguments else "80"
        cases = [str(cases_files[arch])] if name == "operators" else []
        command = [*build.command_prefix(variant), str(program), *cases, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment)

    return run
