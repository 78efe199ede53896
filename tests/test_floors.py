"""The floors: imports go down only, torch and numba stay where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FLOORS = ["firmware_protocol", "boards", "sim_backend", "cimctl"]


def imported(source: str, package: str) -> set[str]:
    """First components of every module that a source imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(package if node.level else str(node.module).split(".")[0])
        elif isinstance(node, ast.Call) and _names_a_module(node):
            argument = node.args[0]
            assert isinstance(argument, ast.Constant)
            found.add(str(argument.value).split(".")[0])
    return found


def _names_a_module(call: ast.Call) -> bool:
    """``importlib.import_module("x")`` and ``__import__("x")`` with the name written out."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    constant = bool(call.args) and isinstance(call.args[0], ast.Constant)
    return name in ("import_module", "__import__") and constant


def files(package: str) -> Iterator[Path]:
    return (REPOSITORY / package).rglob("*.py")


def imports_of(package: str) -> dict[str, set[str]]:
    return {
        str(path.relative_to(REPOSITORY)): imported(path.read_text(encoding="utf-8"), package)
        for path in files(package)
    }


def importers(package: str, module: str) -> list[str]:
    return [path for path, found in imports_of(package).items() if module in found]


@pytest.mark.parametrize("package", FLOORS)
def test_each_floor_has_files_to_look_at(package: str) -> None:
    assert len(imports_of(package)) > 1


@pytest.mark.parametrize(
    ("package", "above"),
    [(low, high) for i, low in enumerate(FLOORS) for high in FLOORS[i + 1 :]],
)
def test_no_floor_imports_one_above_it(package: str, above: str) -> None:
    assert importers(package, above) == []


@pytest.mark.parametrize("package", ["firmware_protocol", "boards"])
def test_torch_stays_out_of_the_lower_floors(package: str) -> None:
    assert importers(package, "torch") == []


@pytest.mark.parametrize("package", ["firmware_protocol", "boards"])
def test_numba_stays_out_of_the_lower_floors(package: str) -> None:
    assert importers(package, "numba") == []


@pytest.mark.parametrize(
    ("package", "module"), [("sim_backend", "torch"), ("sim_backend", "numba")]
)
def test_the_search_finds_imports_that_are_there(package: str, module: str) -> None:
    assert importers(package, module)


def test_no_package_imports_the_tests() -> None:
    assert [path for package in FLOORS for path in importers(package, "tests")] == []


@pytest.mark.parametrize(
    "source",
    [
        "import torch",
        "import numpy, torch.nn as nn",
        "from torch.nn import functional",
        "def f():\n    from torch import Tensor",
        "if TYPE_CHECKING:\n    import torch",
        "importlib.import_module('torch.nn')",
        "__import__('torch')",
    ],
)
def test_every_way_to_import_is_seen(source: str) -> None:
    assert "torch" in imported(source, "boards")
