"""What setup.py builds and says: architectures, toolkits that do not fit or compile, the recorded reason."""

from __future__ import annotations

import json
import pathlib
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest
import setuptools
import torch
from setup_support import run_setup
from torch.utils import cpp_extension

import pconv_cuda

ROOT = pathlib.Path(pconv_cuda.__file__).parents[1]
sys.path.insert(0, str(ROOT))
import setup_cuda  # noqa: E402

PRESET = "7.5 8.0 8.6 9.0 10.0 12.0+PTX"  # of public Dockerfiles
NVCC_13 = "sm_75 sm_80 sm_86 sm_87 sm_88 sm_89 sm_90 sm_100 sm_103 sm_110 sm_120 sm_121"


def chosen(monkeypatch, given: str, codes: str = NVCC_13) -> tuple[str, str]:
    """The architectures for a TORCH_CUDA_ARCH_LIST, and what was changed."""
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", given)
    wanted, reason = setup_cuda.wanted_architectures(torch)
    assert not reason
    known = {int(code.removeprefix("sm_")) for code in codes.split()}
    architectures, changes = setup_cuda.usable(wanted, known)
    return ";".join(architectures), ", ".join(changes)


# Architectures ----------------------------------------------------------------------------------------------


def test_the_preset_list_of_public_images(monkeypatch) -> None:
    architectures, changes = chosen(monkeypatch, PRESET)
    assert architectures == "8.0;8.6;9.0a;10.0;12.0+PTX"
    assert changes == "7.5 left out (below 8.0), 9.0 built as 9.0a, which wgmma needs"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "8.0+PTX;9.0a;10.0;12.0"),
        (" ", "8.0+PTX;9.0a;10.0;12.0"),
        ("8.0;9.0a", "8.0;9.0a"),
        ("8.0  8.6;", "8.0;8.6"),
        ("Ampere", "8.0;8.6+PTX"),
        ("Turing Hopper", "9.0a+PTX"),
        ("Ampere+Tegra;Blackwell", "8.7;10.0;10.3;12.0;12.1+PTX"),
        ("9.0 9.0a 9.0+PTX", "9.0a+PTX"),
        ("8.0+PTX 8.0 8.6", "8.0+PTX;8.6"),
    ],
)
def test_lists_are_read_as_torch_reads_them(monkeypatch, given: str, expected: str) -> None:
    assert chosen(monkeypatch, given)[0] == expected


def test_an_older_nvcc_gets_what_it_knows(monkeypatch) -> None:
    architectures, changes = chosen(monkeypatch, PRESET, "sm_75 sm_80 sm_86 sm_89 sm_90")
    assert architectures == "8.0;8.6;9.0a"
    assert "10.0 left out (unknown to this nvcc), 12.0+PTX left out (unknown to this nvcc)" in changes


@pytest.mark.parametrize("given", ["8,0", "sm_80", "Ampere+PTX", "8.0 9"])
def test_an_invalid_entry_is_an_error(monkeypatch, given: str) -> None:
    with pytest.raises(SystemExit, match="TORCH_CUDA_ARCH_LIST: expected entries such as .* got '"):
        chosen(monkeypatch, given)


def test_ptx_of_hopper_runs_on_later_devices() -> None:
    assert setup_cuda.gencode(["8.0", "9.0a+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_90,code=compute_90",
    ]


def test_architectures_share_ptx_where_it_is_the_same() -> None:
    flags = ["-O3", *setup_cuda.gencode(["8.0+PTX", "9.0a", "10.0", "12.0"]), "-c"]
    assert setup_cuda.with_shared_ptx([*flags, "csrc/cuda/passes/pack.cu"]) == [
        "-O3",
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_80,code=compute_80",
        "-gencode=arch=compute_80,code=sm_90a",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=sm_120",
        "-c",
        "csrc/cuda/passes/pack.cu",
    ]
    hopper = setup_cuda.with_shared_ptx([*flags, "csrc/cuda/sm90/sm90_wgrad.cu"])
    assert hopper[3:6] == ["-gencode=arch=compute_90a,code=sm_90a", *setup_cuda.gencode(["10.0"]),
                           "-gencode=arch=compute_100,code=sm_120"]  # fmt: skip
    alone = [*setup_cuda.gencode(["9.0a", "12.0+PTX"]), "pack.cu"]
    assert setup_cuda.with_shared_ptx(alone) == alone
    assert "-gencode=arch=compute_86,code=sm_90a" in setup_cuda.with_shared_ptx(setup_cuda.gencode(["9.0a", "8.6"]))


def test_the_compiler_that_torch_is_given_shares_ptx(tmp_path: pathlib.Path) -> None:
    home = toolkit(tmp_path / "a toolkit", compiles='echo "$*"').parents[1]
    command = [*shlex.split(setup_cuda.nvcc_command(home)), *setup_cuda.gencode(["10.0", "12.0"]), "-c", "a b.cu"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == ["-gencode=arch=compute_100,code=sm_120", "-c", "a", "b.cu"]


def test_native_without_a_gpu_says_so(monkeypatch) -> None:
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "native")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert setup_cuda.wanted_architectures(torch) == (
        [],
        "TORCH_CUDA_ARCH_LIST: expected a list or a GPU, got native and no GPU",
    )


# Toolkits ---------------------------------------------------------------------------------------------------


def toolkit(folder: pathlib.Path, *, release: str = "13.0", compiles: str = "exit 0") -> pathlib.Path:
    """A folder that looks like a CUDA toolkit, with an nvcc that answers questions."""
    (folder / "bin").mkdir(parents=True)
    (folder / "include").mkdir()
    (folder / "include" / "cuda_runtime_api.h").touch()
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        f"--version) echo 'Cuda compilation tools, release {release}, V{release}.1' ;;\n"
        f"--dryrun) echo '#$ TOP={folder}' >&2 ;;\n"
        f"--list-gpu-code) printf '{NVCC_13.replace(' ', chr(92) + 'n')}' ;;\n"
        f"*) {compiles} ;;\n"
        "esac\n"
    )
    nvcc.chmod(0o755)
    return nvcc


TOO_NEW = """echo 'In file included from <command-line>:' >&2
echo '/usr/include/crt/host_config.h:141:2: error: #error -- unsupported GNU version!' >&2; exit 1"""


@pytest.fixture
def build(tmp_path: pathlib.Path, monkeypatch):
    """build(nvcc) is setup.py build_ext on that toolkit, with a torch for CUDA 13.0; the compilers do not run."""

    def run(self) -> None:
        for one in self.extensions:
            header = [path for path in one.depends if path.endswith("pconv_build.h")]
            print(one.name, *[pathlib.Path(path).read_text().strip() for path in header])

    monkeypatch.setattr(cpp_extension.BuildExtension, "run", run)

    def build(nvcc: pathlib.Path, **environment: str) -> SimpleNamespace:
        monkeypatch.setattr(setup_cuda, "nvcc_candidates", lambda: [nvcc])
        words = ["-q", "build_ext", "--build-temp", str(tmp_path / "temp")]
        return run_setup(*words, torch_cuda="13.0", **environment)

    return build


def test_the_last_line_says_what_was_dropped(build, tmp_path: pathlib.Path) -> None:
    done = build(toolkit(tmp_path / "cuda"), TORCH_CUDA_ARCH_LIST=PRESET)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.strip().splitlines()
    assert (first, second) == ('pconv_cuda._C #define PCONV_NO_CUDA_REASON ""', "pconv_cuda._C_cuda")
    assert last.endswith(
        "CUDA kernels: for 8.0;8.6;9.0a;10.0;12.0+PTX (TORCH_CUDA_ARCH_LIST: 7.5 left out (below 8.0), "
        "9.0 built as 9.0a, which wgmma needs)"
    )


def test_a_toolkit_of_another_major_version(build, tmp_path: pathlib.Path) -> None:
    nvcc = toolkit(tmp_path / "cuda", release="12.9")
    done = build(nvcc)
    reason = f"{nvcc} is CUDA 12.9, torch {torch.__version__} was built for CUDA 13.0"
    assert done.returncode == 0, done.stderr
    assert f'_C #define PCONV_NO_CUDA_REASON "{reason}"\n' in done.stdout and "_C_cuda" not in done.stdout
    assert done.stdout.strip().endswith(f"CUDA kernels: none ({reason})")
    forced = build(nvcc, PCONV_CUDA="1")
    assert forced.returncode == 1 and f"PCONV_CUDA=1 asks for CUDA kernels, but {reason}" in forced.stderr


def test_an_nvcc_that_cannot_compile(build, tmp_path: pathlib.Path) -> None:
    nvcc = toolkit(tmp_path / "cuda", compiles=TOO_NEW)
    done = build(nvcc)
    assert done.returncode == 0, done.stderr
    error = "/usr/include/crt/host_config.h:141:2: error: #error -- unsupported GNU version!"
    assert done.stdout.strip().endswith(f"CUDA kernels: none ({nvcc} cannot compile: {error})")
    forced = build(nvcc, PCONV_CUDA="1")
    assert forced.returncode == 1 and f"{nvcc} cannot compile: {error}" in forced.stderr


def test_an_nvcc_that_cannot_run(build, tmp_path: pathlib.Path) -> None:
    nvcc = toolkit(tmp_path / "cuda")
    nvcc.chmod(0o644)
    done = build(nvcc)
    assert done.returncode == 0, done.stderr
    assert f"none ({nvcc} has no toolkit around it)" in done.stdout


def test_a_list_that_leaves_nothing(build, tmp_path: pathlib.Path) -> None:
    nvcc = toolkit(tmp_path / "cuda")
    done = build(nvcc, TORCH_CUDA_ARCH_LIST="7.0 Turing")
    reason = f"TORCH_CUDA_ARCH_LIST: expected an architecture of 8.0 or later that {nvcc} knows, got '7.0;7.5+PTX'"
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"none ({reason})")
    forced = build(nvcc, TORCH_CUDA_ARCH_LIST="7.0 Turing", PCONV_CUDA="1")
    assert forced.returncode == 1 and reason in forced.stderr


def test_the_recorded_reason_is_the_last_builds(build, tmp_path: pathlib.Path) -> None:
    """A new reason is a newer header, for which setuptools compiles again; the same reason leaves it alone."""
    header = tmp_path / "temp" / "generated" / "pconv_build.h"
    nvcc = toolkit(tmp_path / "cuda", compiles="printf 'fatal: a \"quoted\" \\\\path\\033[0m\\n'; exit 2")
    build(nvcc)
    words = header.read_text().removeprefix("#define PCONV_NO_CUDA_REASON ")
    assert json.loads(words) == f'{nvcc} cannot compile: fatal: a "quoted" \\path[0m'
    before = header.stat().st_mtime_ns
    build(nvcc)
    assert header.stat().st_mtime_ns == before
    build(nvcc, PCONV_CUDA="0")
    assert header.read_text() == '#define PCONV_NO_CUDA_REASON "PCONV_CUDA=0"\n'


@pytest.mark.skipif(not setup_cuda.nvcc_candidates(), reason="no nvcc")
def test_the_trial_finds_a_host_compiler_that_fails(monkeypatch, tmp_path: pathlib.Path) -> None:
    nvcc = setup_cuda.cuda_home(setup_cuda.nvcc_candidates()[0]) / "bin" / "nvcc"
    monkeypatch.delenv("CC", raising=False)
    assert setup_cuda.trial_error(nvcc, setup_cuda.gencode(["8.0"])) == ""
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'g++: fatal error: cannot execute cc1plus' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert "fatal error: cannot execute cc1plus" in setup_cuda.trial_error(nvcc, [])


def test_no_header_is_installed(monkeypatch) -> None:
    """Flat in one folder their includes of ../ would not be found."""
    given: dict[str, object] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    assert run_setup(PCONV_CUDA="0").returncode == 0
    assert "ext_modules" in given and "headers" not in given
