"""The benchmarks can start: their names shadow no module, and what they import is there."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

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


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, ROOT / "benchmarks" / script, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_script_starts() -> None:
    assert "millions of bytes" in run("split_throughput.py", "--help")


def test_the_trainings_that_are_measured_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    throughput, start = import_module("train_throughput"), import_module("train_start")
    setting = throughput.Setting(
        torch.device("cpu"), "tiny", batch_size=2, context=16, dropout=0.1, steps=2
    )
    for contender in (throughput.lossbook, throughput.nano_gpt):
        (seconds,) = contender(setting, "fp32")
        assert 0 < seconds < 60
    for split in ("train", "val"):
        throughput.write_tokens(tmp_path / "tokens" / split, 1000)
    assert start.train(tmp_path / "tokens", steps=2)["tokens"] == 1000


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train_throughput.py", ("--size", "tiny", "--steps", "2", "--rounds", "1")),
        ("train_start.py", ("--millions", "1", "--steps", "3", "--shards")),
        ("split_throughput.py", ("--sizes", "1", "--rounds", "1")),
        ("shared_text.py", ("--tokens", "1", "--rounds", "1")),
        ("decode.py", ("--size", "tiny", "--tokens", "8", "--rounds", "1")),
        ("load_gpt2.py", ("--sizes", "124M", "--rounds", "1", "--without-book")),
    ],
)
def test_the_others_run(script: str, arguments: tuple[str, ...]) -> None:
    assert len(run(script, *arguments).splitlines()) >= 2
