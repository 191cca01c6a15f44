"""The benchmarks can start: their names shadow no module, and what they import is there."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))


def test_the_scripts_are_found() -> None:
    names = {path.stem for path in SCRIPTS}
    assert {"decode", "load_gpt2", "split_throughput", "tracking"} <= names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_name_shadows_no_module_of_python(script: Path) -> None:
    """A script's folder comes first on its path: `tokenize.py` would stand in for Python's own."""
    assert script.stem not in sys.stdlib_module_names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_what_a_script_imports_from_the_project_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
            assert node.module is not None
            module = import_module(node.module)
            for alias in node.names:
                there = hasattr(module, alias.name) or find_spec(f"{node.module}.{alias.name}")
                assert there, f"{node.module} has no {alias.name}"


def test_a_script_starts() -> None:
    script = ROOT / "benchmarks" / "split_throughput.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "millions of bytes" in done.stdout
