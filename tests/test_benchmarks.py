"""The benchmarks start: `tokenize.py` among them must not stand in for Python's own module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.repository import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
GUARD = "if sys.path[0].endswith('benchmarks'):\n    sys.path.pop(0)"


def test_the_scripts_are_found() -> None:
    assert {"decode", "load_gpt2", "tokenize", "tracking"} <= {path.stem for path in SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_leaves_its_folder_before_it_imports_anything(script: Path) -> None:
    _docstring, _future, first, guard, *_ = ast.parse(script.read_text(encoding="utf-8")).body
    assert (ast.unparse(first), ast.unparse(guard)) == ("import sys", GUARD)


def test_tokenize_is_pythons() -> None:
    script = ROOT / "benchmarks" / "tokenize.py"
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "millions of bytes" in done.stdout
