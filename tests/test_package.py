"""The package as a whole: what importing does, what the command says, what happens when something is missing."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from setup_support import run_setup

import pconv_cuda
from pconv_cuda import cli, errors
from pconv_cuda.cli import info
from pconv_cuda.errors import MissingExtra, install_command, require

ROOT = pathlib.Path(pconv_cuda.__file__).parents[1]


def python(code: str, *, cwd: pathlib.Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """``code`` in a fresh interpreter that finds this package."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True)


def test_importing_and_loading_weights_import_little(tmp_path: pathlib.Path) -> None:
    done = python(
        "import sys; import pconv_cuda\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)\n"
        "import torch; before = set(sys.modules); import pconv_cuda.nn\n"
        "assert torch.ops.pconv_cuda.partial_conv2d and torch.ops.pconv_cuda.partial_conv2d_backward\n"
        "late = {'torchvision', 'PIL', 'accelerate', 'skimage', 'safetensors', 'pconv_cuda.models'}\n"
        "assert not late & set(sys.modules) - before, sorted(late & set(sys.modules))\n"
        "from pconv_cuda import PartialConv2d, PConvUNet, InpaintingLoss, inpaint\n"
        "assert set(pconv_cuda.__all__) <= set(dir(pconv_cuda))\n"
        "import pconv_cuda.models; assert pconv_cuda.models.PConvUNet is PConvUNet\n"
        f"PConvUNet(levels=1, width=1).save_pretrained({str(tmp_path)!r})\n"
        f"PConvUNet.from_pretrained({str(tmp_path)!r}); assert 'torch._dynamo' not in sys.modules\n"
    )
    assert done.returncode == 0, done.stderr


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'PartialConv4d'"):
        _ = pconv_cuda.PartialConv4d


@pytest.mark.parametrize("verb", ["", *cli.VERBS])
def test_help_does_not_wait_for_torch(verb: str) -> None:
    done = python(
        f"import sys; sys.argv = ['pconv', *{verb.split()!r}, '--help']\n"
        "from pconv_cuda.cli import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), 'imported for --help'"
    )
    assert done.returncode == 0, done.stderr
    assert "usage: pconv" in done.stdout


OPERATORS = ("conv3x3", "partial_conv2d", "partial_conv2d_backward", "smooth_fill", "upcat_phases")


@pytest.mark.parametrize("used", ["pconv_cuda.ops", "pconv_cuda.functional", "pconv_cuda.PConvUNet"])
def test_first_use_registers_all_operators(used: str) -> None:
    done = python(f"import torch, pconv_cuda; {used}\n"
                  f"for name in {OPERATORS}: getattr(torch.ops.pconv_cuda, name)")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_info(capsys) -> None:
    assert cli.main(["info"]) == 0
    said = capsys.readouterr().out
    for word in ("pconv-cuda", pconv_cuda.__version__, "torch", "CPU operators", "stable ABI 2.11", "CUDA kernels"):
        assert word in said


def test_info_knows_every_package_of_the_extras() -> None:
    tomllib = pytest.importorskip("tomllib")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for_use = {name: needed for name, needed in extras.items() if name not in ("test", "lint", "docs", "bench", "all")}
    named = {re.split(r"[><=\[ ;]", one)[0].lower() for needed in for_use.values() for one in needed} - {"pconv-cuda"}
    assert named <= {distribution.lower() for _, distribution in info._OPTIONAL}


def test_info_names_what_is_missing_and_the_remedy(monkeypatch, capsys) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "skimage" else real(name, *rest)
    )
    assert cli.main(["info"]) == 0
    assert "scikit-image: pip install scikit-image" in capsys.readouterr().out


def test_a_missing_extra_is_one_sentence_with_the_remedy() -> None:
    sentence = r"reading pages needs .*'nowhere_to_be_found'.*install it with: pip install nowhere_to_be_found"
    with pytest.raises(MissingExtra, match=sentence):
        require("nowhere_to_be_found.part", "inpaint", why="reading pages")


def test_what_is_missing_of_an_extra_is_named(monkeypatch) -> None:
    """With the requirements that pip recorded; the package itself is on no index."""
    entries = [
        "torch>=2.11",
        'pillow>=999; extra == "inpaint"',
        'absent-one>=2; extra == "inpaint"',
        'pconv-cuda[inpaint]; extra == "train"',
        'absent_two; extra == "train"',
        'numpy; extra == "train"',
        'absent-three; extra == "eval"',
    ]
    monkeypatch.setattr(errors.metadata, "requires", lambda name: entries)
    assert install_command("absent_two", "train") == "pip install 'absent-one>=2' absent_two"
    assert install_command("PIL", "train") == "pip install 'pillow>=999' 'absent-one>=2' absent_two"
    assert install_command("cv2", "inpaint") == "pip install opencv-python-headless 'absent-one>=2'"


def test_no_message_or_document_names_a_package_of_the_index() -> None:
    files = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("pconv_cuda/**/*.py")]
    assert len(files) > 50
    assert not [str(file) for file in files if "pip install 'pconv" in file.read_text(encoding="utf-8")]


def test_the_readme_fits_on_two_screens() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line.startswith("python3 -m venv .venv && ")]
    assert len(commands) == 2 and commands[0].endswith("pconv quickstart") and commands[1].endswith("-m pytest")
    assert not [line for line in lines if len(line) > 100 and line not in commands]
    assert len(lines) <= 130


def slug(heading: str) -> str:
    """What GitHub makes of a heading for links to it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", ["README.md", "docs/benchmarks.md", "docs/design.md"])
def test_links_of_the_documents_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', text)
    local = [link for pair in links for link in pair if link and not link.startswith("https://")]
    assert local
    for link in local:
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert anchor in map(slug, headings), link


@pytest.mark.parametrize("use", ["import pconv_cuda; pconv_cuda.PConvUNet", "from pconv_cuda import nn"])
def test_without_torch_one_sentence_says_what_to_install(use: str) -> None:
    done = python(f"import sys; sys.modules['torch'] = None; {use}")
    assert "ImportError: pconv_cuda needs torch 2.11 or later" in done.stderr.strip().splitlines()[-1]


def test_without_torch_the_command_ends_in_one_sentence() -> None:
    call = ["inpaint", "a.png", "--mask", "b.png", "-o", "c.png", "--weights", "w"]
    prelude = "import sys; sys.argv = ['pconv']; sys.modules['torch'] = None\n"
    done = python(f"{prelude}from pconv_cuda.cli import main; sys.exit(main({call}))")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("pconv inpaint: error: ") and "`pconv info`" in done.stderr


def copy_of_the_package(folder: pathlib.Path) -> pathlib.Path:
    """The Python files alone: no compiled extension."""
    shutil.copytree(ROOT / "pconv_cuda", folder / "pconv_cuda", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


# An editable install finds submodules wherever the package lies; the copies below must not see it.
ALONE = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'ditable' not in repr(f)]\n"


def test_without_the_extension_one_sentence_says_how_to_build(tmp_path: pathlib.Path) -> None:
    done = python(f"{ALONE}import pconv_cuda.ops", cwd=copy_of_the_package(tmp_path), PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: pconv_cuda: the compiled extension") and "pip install" in last


def test_an_extension_that_does_not_fit_says_so(tmp_path: pathlib.Path) -> None:
    import sysconfig

    copy_of_the_package(tmp_path)
    (tmp_path / "pconv_cuda" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}").write_bytes(b"\x7fELF not really")
    done = python(f"{ALONE}import pconv_cuda.ops", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    last = done.stderr.strip().splitlines()[-1]
    assert "does not fit torch" in last and "rebuild it" in last
    info = f"{ALONE}sys.argv = ['pconv']; from pconv_cuda.cli import main; sys.exit(main(['info']))"
    reported = python(info, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert reported.returncode == 1 and "rebuild it" in reported.stdout


def setup_py(tmp_path: pathlib.Path, prelude: str = "", **environment: str) -> str:
    """What setup.py says when it refuses."""
    code = f"import sys, runpy; sys.argv = ['setup.py', '--version']\n{prelude}\nrunpy.run_path('setup.py')"
    done = python(code, cwd=ROOT, **environment)
    assert done.returncode != 0
    return done.stderr.strip().splitlines()[-1]


def test_building_without_torch_is_one_sentence(tmp_path: pathlib.Path) -> None:
    said = setup_py(tmp_path, "sys.modules['torch'] = None")
    assert said.startswith("pconv_cuda: building needs torch 2.11") and "pip install --no-build-isolation ." in said
    old = "import types; t = types.ModuleType('torch'); t.__version__ = '2.10.1'; u = types.ModuleType('torch.utils')\n"
    old += "u.cpp_extension = 1; sys.modules['torch'], sys.modules['torch.utils'] = t, u"
    assert "found 2.10.1" in setup_py(tmp_path, old)


@pytest.mark.parametrize(("name", "value"), [("PCONV_CUDA", "maybe"), ("PCONV_ISA", "sse9")])
def test_building_refuses_what_it_cannot_do(name: str, value: str) -> None:
    done = run_setup("--version", **{"PCONV_CUDA": "0", name: value})
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(f"pconv_cuda: {name}: expected")


def test_requiring_cuda_without_cuda_is_an_error() -> None:
    said = run_setup("--version", torch_cuda=None, PCONV_CUDA="1").stderr.splitlines()[-1]
    assert said.startswith("pconv_cuda: PCONV_CUDA=1") and "this torch was built without CUDA" in said


def test_user_errors_are_one_line_and_exit_1(capsys) -> None:
    assert cli.main(["inpaint", "no-such.png", "--mask", "m.png", "-o", "x.png", "--weights", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("pconv inpaint: error: ")
