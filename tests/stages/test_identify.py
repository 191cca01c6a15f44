"""The stage that lets DVC see when a local corpus or first weights change, under DVC itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PIPELINE = """
stages:
  identify:
    cmd: {python} -m stages.identify --report reports/identity.json --start reports/start.json
    always_changed: true
    params: [prepare, train.init_from]
    metrics:
      - reports/identity.json: {{cache: false}}
      - reports/start.json: {{cache: false}}
  train:
    cmd: {python} -c "print()"
    deps: [reports/start.json]
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
    (tmp_path / "params.yaml").write_text(
        "prepare: {corpus: mine.txt}\ntrain: {init_from: scratch}\n"
    )
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


def test_other_first_weights_in_the_same_folder_train_anew_and_nothing_else(
    repository: Path,
) -> None:
    folder = repository / "models" / "first"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.pth").write_bytes(b"one")
    params = repository / "params.yaml"
    params.write_text(params.read_text().replace("scratch", "models/first"))
    assert "Running stage 'train'" in dvc(repository, "repro")
    again = dvc(repository, "repro")
    assert "Stage 'train' didn't change, skipping" in again

    (folder / "model.pth").write_bytes(b"two")
    again = dvc(repository, "repro")
    assert "Running stage 'train'" in again
    assert "Stage 'prepare' didn't change, skipping" in again
    assert "models/first" in (repository / "reports" / "start.json").read_text()


def test_where_gpt2_comes_from_is_noted_for_a_training_that_starts_from_it(
    repository: Path,
) -> None:
    params = repository / "params.yaml"
    params.write_text(
        "prepare: {corpus: mine.txt}\ntrain: {init_from: gpt2-124M}\n"
        "gpt2: {mirror: 'https://me:secret@example.org/gpt2'}\n"
    )
    dvc(repository, "repro", "identify")
    assert json.loads((repository / "reports" / "start.json").read_text()) == {
        "init_from": "gpt2-124M",
        "source": "openai",
        "mirror": "https://example.org/gpt2",
    }
