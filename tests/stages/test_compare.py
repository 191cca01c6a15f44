"""The compare stage at the terminal: golden inputs, its files, its run."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.numbers import shown, to_json
from pipeline.system.checksums import write_sums
from pipeline.tracking.journal import read_run
from pipeline.tracking.mlflow.store import connect
from tests.helpers.make_golden import GOLDEN, TABLES, compare

WRITTEN = [f"comparison.{suffix}" for suffix in ("csv", "html", "json", "md", "png")]

HISTORY = (GOLDEN / "history.csv").read_text()
REPORTS = {
    name: (GOLDEN / name).read_text()
    for name in ("corpus.json", "split.json", "token_losses/scratch/meta.json")
}


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository where every stage before this one has run; runs are only journalled."""
    shutil.copytree(GOLDEN, tmp_path / "reports")
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def written() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("reports").glob("comparison*")}


def test_writes_the_golden_tables(repo: Path) -> None:
    result = compare("[124M, 1558M]", "--samples", "reports/samples.json")
    assert result.exit_code == 0, result.output
    assert sorted(written()) == WRITTEN
    for name in TABLES:
        assert written()[name].decode() == (GOLDEN / "expected" / name).read_text()
    verdict = json.loads(written()["comparison.json"])["verdict"]
    assert result.output == f"{verdict}\n"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", ["NaN", "Infinity", 1e300, 800.0])
def test_losses_out_of_bounds_are_shown_and_not_drawn_away(repo: Path, value: str | float) -> None:
    """As a training that diverges leaves them: every file is written, no cell is of 200 digits."""
    number = float(value)
    bits = number / 3
    reports = repo / "reports"
    evaluation = json.loads((reports / "evaluate.json").read_text())
    wild = {"loss": value, "perplexity": "NaN" if value == "NaN" else "Infinity"}
    for split in ("train", "val"):
        evaluation[split] |= wild | {"bits_per_byte": value if math.isinf(bits) else bits}
    (reports / "evaluate.json").write_text(json.dumps(to_json(evaluation)))
    scratch = reports / "token_losses/scratch"
    np.save(scratch / "last.val.npy", np.full((3, 8), min(number, 1e38), "f4"))
    write_sums(scratch)
    history = (reports / "history.csv").read_text()
    (reports / "history.csv").write_text(history.replace("0.5,6.5", f"{number!r},6.5"))

    result = compare("[124M, 1558M]", "--samples", "reports/samples.json")
    assert result.exit_code == 0, result.output
    assert sorted(written()) == WRITTEN
    content = json.loads(written()["comparison.json"], parse_constant=pytest.fail)
    found = content["models"]["scratch_last"]["val_loss"]
    assert repr(float(found)) == repr(number)
    (row,) = (
        row
        for row in csv.DictReader(written()["comparison.csv"].decode().splitlines())
        if row["model"] == "scratch (last)"
    )
    assert repr(float(row["val_loss"])) == repr(number)
    for page in ("comparison.md", "comparison.html"):
        assert shown(number) in written()[page].decode()
        assert not re.search(r"\d{70}", written()[page].decode())


def test_runs_again_to_the_same_bytes(repo: Path) -> None:
    assert compare().exit_code == 0
    before = written()
    assert compare().exit_code == 0
    assert written() == before


def test_the_page_tells_all_of_it(repo: Path) -> None:
    assert compare("[124M, 1558M]", "--samples", "reports/samples.json").exit_code == 0
    html = written()["comparison.html"].decode()
    for said in (
        "no answer from openaipublic.blob.core.windows.net",
        "the &lt;script&gt;alert(1)&lt;/script&gt;",
        '<span class="l8" title="8.00"> &lt;</span>',
        "… moves &lt;i&gt;you&lt;/i&gt;",
        "<caption>Variety: different pairs of tokens, of all pairs</caption>",
        "The same for all settings: repetition: 0.",
        "<b>␣the</b> 9",
        "<dt>Training</dt><dd>",
        "<dt>MLflow run</dt><dd>",
        "5" * 64,
        "1,234,567 parameters",
        "<dt>train.grad_clip</dt><dd>null</dd>",
        "over 24 validation and 160 training tokens, in 3 and 20 windows of 8.",
    ):
        assert said in html
    assert str(repo) not in html
    assert "tracking.experiment" not in html


@pytest.mark.parametrize("sizes", ["[]", "[1558M]", "[355M, 774M]", "[124M]"])
def test_works_with_any_sizes_missing(repo: Path, sizes: str) -> None:
    shutil.rmtree(repo / "reports" / "token_losses")
    result = compare(sizes)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(written()["comparison.csv"].decode().splitlines()))
    assert len(rows) == 3 + len(sizes.split(",")) * (sizes != "[]")
    for row in rows:
        assert (row["status"] == "measured") == (row["val_loss"] != "")


def test_journals_a_child_of_the_train_run(repo: Path) -> None:
    assert compare().exit_code == 0
    story = read_run(repo / "reports" / "journals" / "compare")
    assert story is not None
    assert story.parent == "0123456789abcdef"
    assert story.stage == "compare"
    assert json.loads((repo / "reports" / "comparison.json").read_text())["verdict"] in (
        story.tags["mlflow.note.content"] or ""
    )
    assert set(story.artifacts) == {*WRITTEN, "samples.json"}


def test_mlflow_shows_the_same_numbers(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOSSBOOK_OFFLINE")
    assert compare().exit_code == 0
    client = connect().client
    (experiment,) = [e for e in client.search_experiments() if e.name == "lossbook"]
    (run,) = client.search_runs([experiment.experiment_id])
    numbers = json.loads(written()["comparison.json"])["models"]
    assert run.data.metrics == {
        f"{model}/{name}": value for model, by in numbers.items() for name, value in by.items()
    }
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        *WRITTEN,
        "samples.json",
    }
    table = Path(client.download_artifacts(run.info.run_id, "comparison.json")).read_text()
    assert json.loads(table)["data"][3][0] == "GPT-2 small (124M)"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("evaluate.json", None, "evaluate.json: no such file"),
        (
            "evaluate.json",
            '{"corpus_sha256": "5", "context_length": 8, "best": 1}',
            "evaluate.json: train: field required",
        ),
        ("split.json", "{}", "split.json: corpus: field required"),
        ("corpus.json", "[", "corpus.json: not valid JSON"),
        ("history.csv", None, "history.csv: no such file"),
        ("history.csv", "", "history.csv: lacks step, epoch, tokens_seen"),
        ("history.csv", "step,epoch\n1,1\n", "history.csv: lacks tokens_seen, train_loss"),
        (
            "history.csv",
            "step,epoch,tokens_seen,train_loss,val_loss,learning_rate\n",
            "history.csv: holds no validation loss",
        ),
        ("history.csv", HISTORY.replace("2.0,6.0", "2.0,nan"), "line 5 has no validation loss"),
        ("history.csv", HISTORY.replace("2.0,6.0", "2.0,-inf"), "line 5 has no validation loss"),
        ("history.csv", HISTORY.replace("2.0,6.0", "2.0,six"), "(line 5 is none)"),
        ("history.csv", HISTORY.replace("2.0,6.0", "2.0"), "(line 5 is none)"),
        ("history.csv", HISTORY.replace("30,", "10,"), "its steps are not in order"),
        ("history.csv", HISTORY.replace(",640,", f",{10**400},"), "its steps are not in order"),
        ("history.csv", HISTORY.replace("0.5,6.5", "0.5,5.5"), "not of the training that train"),
        ("history.csv", HISTORY.replace("2.0,6.0", "2.0,6.1"), "not of the training that train"),
        ("history.csv", HISTORY[:-20], "history.csv: "),
        ("history.csv", "a," * 10**6 + "\n" + "1," * 10**6, "history.csv: lacks step, epoch"),
        ("history.csv", "\udcff\0\udcfe" * 99, "history.csv: no table of evaluations ("),
        ("history.csv", HISTORY + "9" * 200_000, "history.csv: no table of evaluations ("),
        ("split.json", REPORTS["split.json"].replace("5" * 64, "6" * 64), "are of two corpora"),
        ("corpus.json", REPORTS["corpus.json"].replace("5" * 64, "6" * 64), "are of two corpora"),
        (
            "token_losses/scratch/meta.json",
            REPORTS["token_losses/scratch/meta.json"].replace("5" * 64, "6" * 64),
            "meta.json: its SHA-256 is",
        ),
        ("train_run.json", "{}", "train_run.json: must hold the key `run`"),
    ],
)
def test_a_mistake_is_one_line_and_loses_nothing(
    repo: Path, file: str, content: str | None, said: str
) -> None:
    for name in WRITTEN:
        (repo / "reports" / name).write_text("of an earlier run")
    before = written()
    path = repo / "reports" / file
    path.unlink() if content is None else path.write_text(content, errors="surrogateescape")
    result = compare("[124M]")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert said in line
    assert written() == before


def test_other_windows_are_refused(repo: Path) -> None:
    path = repo / "reports" / "baselines" / "124M.json"
    content = json.loads(path.read_text())
    content["val"]["tokens"] += 8
    path.write_text(json.dumps(content))
    result = compare()
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: reports/evaluate.json and reports/baselines/124M.json cannot be compared: "
        "val.tokens is 24 in the first and 32 in the second; `dvc repro` measures both on the "
        "same tokens\n"
    )
    assert written() == {}
