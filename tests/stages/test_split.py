"""The split stage at the terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.corpus.corpora import prepare
from pipeline.params import Prepare
from pipeline.reports import SplitReport
from pipeline.tokens.windows import Windows
from stages.split import main
from tests.helpers.damage import flip


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
        *(
            f"tokens/{split}/{name}"
            for split in ("train", "val")
            for name in ("00000.bin", "_SHA256SUMS", "meta.json")
        ),
        "tokens/val/shared.bin",
    ]
    path = place / "reports" / "split.json"
    report = json.loads(path.read_text())
    keys = ["corpus", "corpus_sha256", "train", "val", "shared", "statistics", "_sha256"]
    assert list(report) == keys
    assert report.pop("_sha256")
    assert SplitReport.read(path).model_dump(mode="json") == report
    assert report["corpus"] == Prepare().corpus
    for name in ("train", "val"):
        assert len(Windows.open(place / "tokens" / name, 256)) >= 2
        assert set(report[name]) == {"tokens", "documents", "characters", "bytes"}


def test_runs_again_to_the_same_bytes(place: Path) -> None:
    before = outputs(place)
    assert run(place).exit_code == 0
    assert outputs(place) == before


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("missing", "_meta.json: no such file"),
        ("cut", "00000.parquet: its SHA-256 is "),
        ("three bytes", "00000.parquet: its SHA-256 is "),
        ("one character", "has 1 character; give a longer text"),
        ("equal documents", "go whole to one split or another"),
    ],
)
def test_a_mistake_is_one_line_and_loses_nothing(place: Path, damage: str, said: str) -> None:
    before = outputs(place)
    shard = place / "corpus" / "00000.parquet"
    if damage == "missing":
        (place / "corpus" / "_meta.json").unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-4])
    elif damage == "three bytes":  # other text, under the same name
        flip(shard, at=685, count=3)
    elif damage == "one character":
        (place / "a.txt").write_text("x")
        prepare(Prepare(corpus=str(place / "a.txt")), place / "corpus")
    else:
        (place / "a.jsonl").write_text('{"text": "one"}\n{"text": "one"}\n')
        prepare(Prepare(corpus=str(place / "a.jsonl")), place / "corpus")
    result = run(place, "split: {train_fraction: 0.999}")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert outputs(place) == before


def test_many_documents_get_a_run_that_tells_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    lines = [json.dumps({"text": f"Tale {n}. " * (n + 1), "title": f"T{n}"}) for n in range(40)]
    (tmp_path / "tales.jsonl").write_text("\n".join([*lines, '{"text": " ", "title": "blank"}']))
    prepare(Prepare(corpus="tales.jsonl"), tmp_path / "corpus")
    result = run(tmp_path, "split: {train_fraction: 0.8, test_fraction: 0.1}")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "reports" / "split.json").read_text())
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = store.get_experiment_by_name("lossbook")
    assert experiment
    (found,) = store.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.data.tags["role"]) == ("tales.jsonl", "corpus")
    assert found.info.status == "FINISHED"
    metrics = found.data.metrics
    assert (metrics["documents"], metrics["left_out/empty"]) == (40, 1)
    for name in ("train", "val", "test"):
        assert metrics[f"{name}/tokens"] == report[name]["tokens"]
        share = report[name]["tokens"] / sum(report[n]["tokens"] for n in ("train", "val", "test"))
        assert f"{name}: {report[name]['tokens']:,} tokens, {share:.1%}" in result.stdout

    def artifact(name: str) -> str:
        return Path(store.download_artifacts(found.info.run_id, name)).read_text()

    table = json.loads(artifact("left_out.json"))
    assert table["data"] == [["tales.jsonl:41", "blank", "empty", ""]]
    assert json.loads(artifact("most_common_tokens.json"))["columns"] == ["token", "text", "count"]
    assert artifact("excerpts.md").count("\n> Tale") >= 12
    assert (tmp_path / "mlartifacts").is_dir()


def test_near_copies_are_warned_of_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    tale = "Once upon a time there was a king who had no daughters and a great many sheep"
    lines = [json.dumps({"text": f"{tale}, {n}."}) for n in range(40)]
    (tmp_path / "tales.jsonl").write_text("\n".join(lines))
    prepare(Prepare(corpus="tales.jsonl"), tmp_path / "corpus")
    result = run(tmp_path, "split: {train_fraction: 0.8}")
    assert result.exit_code == 0, result.output
    report = SplitReport.read(tmp_path / "reports" / "split.json")
    assert report.shared is not None
    found = report.shared["val"]
    assert found.near_copies == report.val.documents > 4
    assert found.near_copies_share == 1
    assert found.share > 0.8
    (warning,) = [line for line in result.output.splitlines() if line.startswith("warning: ")]
    assert f"near-copies of training documents are {found.near_copies} of" in warning
    store = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = store.get_experiment_by_name("lossbook")
    assert experiment
    (logged,) = store.search_runs([experiment.experiment_id])
    metrics = logged.data.metrics
    assert metrics["val/near_copies"] == found.near_copies
    assert metrics["val/near_copies_share"] == 1
    assert metrics["val/shared_share"] == pytest.approx(found.share)


def test_one_document_gets_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    prepare(Prepare(), tmp_path / "corpus")
    assert run(tmp_path).exit_code == 0
    assert not (tmp_path / "mlflow.db").exists()
