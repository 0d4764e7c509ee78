"""How the package's modules import each other: downwards, never in a circle. Read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pconv_cuda

PACKAGE = Path(pconv_cuda.__file__).parent
# From the lowest layer to the highest. A module imports its own layer and those below it, inside functions too.
LAYERS = (
    ("errors", "text", "rng"),
    ("files", "folders", "locks", "progress", "signals", "devices", "tensor_files", "contact_sheet"),
    ("checks", "checks_nd", "known_calls", "reference", "reference_nd", "smooth"),
    ("ops", "selftest"),
    ("functional", "functional_nd", "layer_parts", "borders", "nn", "nn_nd", "backends", "flops"),
    ("models", "losses", "data", "hub"),
    ("masks",),
    ("documents",),
    ("inpainting", "named", "grids"),
    ("training", "convert", "export"),
    ("evaluation",),
    ("quickstart", "serve"),
    ("cli",),
    ("__main__",),
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

Import = tuple[str, int, bool]  # what, in which line, whether at module level


def name_of(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path, modules: dict[str, Path]) -> Iterator[Import]:
    """The modules of the package that ``file`` imports. What TYPE_CHECKING guards counts as inside a function."""

    def visit(node: ast.AST, top: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            guarded = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if isinstance(child, ast.Import):
                for alias in child.names:
                    if alias.name in modules:
                        yield alias.name, child.lineno, top
            elif isinstance(child, ast.ImportFrom):
                assert not child.level, f"{file}: relative import in line {child.lineno}"
                for alias in child.names:
                    whole = f"{child.module}.{alias.name}"
                    if whole in modules or child.module in modules:
                        yield whole if whole in modules else str(child.module), child.lineno, top
            inside = guarded or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from visit(child, top and not inside)

    yield from visit(ast.parse(file.read_text(encoding="utf-8")), True)


def problems(package: Path) -> list[str]:
    """What is wrong with the imports below ``package``, the folder ``pconv_cuda``."""
    modules = {name_of(file, package): file for file in sorted(package.rglob("*.py"))}
    root = package.name
    found, graph = [], {}
    for module, file in modules.items():
        if any(part.startswith("_") and not part.startswith("__") for part in module.split(".")):
            found.append(f"{module}: its name begins with an underscore")
        if module == root:  # its names are lazy
            continue
        part = module.split(".")[1]
        if part not in RANK:
            found.append(f"{module}: {part} is in no layer of tests/test_imports.py")
            continue
        graph[module] = set()
        for imported, line, top in imports_of(file, modules):
            if imported == root:  # __version__
                continue
            if RANK.get(imported.split(".")[1], 0) > RANK[part]:
                found.append(f"{module}, line {line}: imports {imported}, which is above it")
            # a package's own modules are imported by it: only its parent's names would make a circle
            if top and not module.startswith(f"{imported}."):
                graph[module].add(imported)
            elif top:
                found.append(f"{module}, line {line}: imports names of its own package {imported}")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"a circle: {' -> '.join(error.args[1])}")
    return found


def test_no_import_upwards_and_no_circle() -> None:
    assert not problems(PACKAGE)


MISTAKES = {
    "upwards": ("files.py", "from pconv_cuda.nn import PartialConv2d", "files, line 1: imports pconv_cuda.nn, which"),
    "upwards, late": ("nn.py", "def f():\n    import pconv_cuda.training.loop", "nn, line 2: imports pconv_cuda.train"),
    "circle": ("models/options.py", "from pconv_cuda.models import unet", "a circle: "),
    "own package": ("models/options.py", "from pconv_cuda.models import PConvUNet", "imports names of its own package"),
    "underscore": ("_more.py", "", "pconv_cuda._more: its name begins with an underscore"),
    "no layer": ("more.py", "", "pconv_cuda.more: more is in no layer"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_check_catches(mistake: str, tmp_path: Path) -> None:
    name, text, expected = MISTAKES[mistake]
    package = tmp_path / "pconv_cuda"
    for file in PACKAGE.rglob("*.py"):
        copy = package / file.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    file = package / name
    file.write_text(f"{text}\n{file.read_text() if file.exists() else ''}")
    assert any(expected in problem for problem in problems(package)), problems(package)
