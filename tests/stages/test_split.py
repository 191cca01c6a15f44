"""The split stage at the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.data.corpora import prepare
from pipeline.data.loader import Windows
from pipeline.params import Prepare
from stages.split import main


def run(folder: Path, params: str = "split: {train_fraction: 0.9}") -> Result:
    (folder / "params.yaml").write_text(params)
    options = ["--params", folder / "params.yaml", "--corpus", folder / "corpus"]
    options += ["--tokens", folder / "tokens", "--report", folder / "reports" / "split.json"]
    return CliRunner().invoke(main, [str(option) for option in options])


def outputs(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for part in ("tokens", "reports")
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a prepared corpus that was split before."""
    prepare(Prepare(), tmp_path / "corpus")
    assert run(tmp_path).exit_code == 0
    return tmp_path


def test_writes_tokens_and_their_report(place: Path) -> None:
    assert sorted(outputs(place)) == [
        "reports/split.json",
        "tokens/train/00000.bin",
        "tokens/train/meta.json",
        "tokens/val/00000.bin",
        "tokens/val/meta.json",
    ]
    report = json.loads((place / "reports" / "split.json").read_text())
    assert report["corpus"] == Prepare().corpus
    for side in ("train", "val"):
        assert len(Windows.open(place / "tokens" / side, 256)) >= 2
        assert set(report[side]) == {"tokens", "documents", "characters", "bytes"}


def test_runs_again_to_the_same_bytes(place: Path) -> None:
    before = outputs(place)
    assert run(place).exit_code == 0
    assert outputs(place) == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("missing", "_meta.json: no such file"),
        ("cut", "00000.parquet: not readable"),
        ("one character", "has 1 characters; give a longer text"),
        ("few documents", "go whole to one side or another"),
    ],
)
def test_a_mistake_is_one_line_and_loses_nothing(place: Path, damage: str, said: str) -> None:
    before = outputs(place)
    shard = place / "corpus" / "00000.parquet"
    if damage == "missing":
        (place / "corpus" / "_meta.json").unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-4])
    elif damage == "one character":
        (place / "a.txt").write_text("x")
        prepare(Prepare(corpus=str(place / "a.txt")), place / "corpus")
    else:
        (place / "a.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n')
        prepare(Prepare(corpus=str(place / "a.jsonl")), place / "corpus")
    result = run(place, "split: {train_fraction: 0.999}")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert outputs(place) == before
