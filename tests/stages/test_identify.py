"""The stage that lets DVC see when a local corpus has changed, under DVC itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = """
stages:
  identify:
    cmd: {python} -m stages.identify --report reports/identity.json
    always_changed: true
    params: [prepare]
    metrics: [{{reports/identity.json: {{cache: false}}}}]
  prepare:
    cmd: {python} -m stages.prepare --corpus data/corpus --report reports/corpus.json
    deps: [reports/identity.json]
    params: [prepare]
    outs: [data/corpus]
    metrics: [{{reports/corpus.json: {{cache: false}}}}]
"""


def dvc(folder: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        env=os.environ
        | {"PYTHONPATH": str(Path(__file__).parents[2]), "DVC_NO_ANALYTICS": "1"}
        | {"DVC_SITE_CACHE_DIR": str(folder / ".site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    dvc(tmp_path, "init", "--no-scm", "-q")
    (tmp_path / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (tmp_path / "params.yaml").write_text("prepare: {corpus: mine.txt}\n")
    (tmp_path / "mine.txt").write_text("one")
    return tmp_path


def test_an_edited_local_text_is_prepared_anew_and_nothing_else_is(repository: Path) -> None:
    assert "Running stage 'prepare'" in dvc(repository, "repro")
    report = repository / "reports" / "corpus.json"
    first = report.read_bytes()

    assert "Stage 'prepare' didn't change, skipping" in dvc(repository, "repro")

    (repository / "mine.txt").write_text("two")
    assert "Running stage 'prepare'" in dvc(repository, "repro")
    assert report.read_bytes() != first
