"""`lossbook verify` on what the real stages wrote, as it is and with one thing changed."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.gpt2 import fetch
from pipeline.model.saved import save_whole
from pipeline.reports import EvaluationReport, SplitLosses
from pipeline.system.checksums import write_sums
from pipeline.tokens.windows import Windows
from pipeline.verification.tables import _same
from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.helpers.real_stage import STORY
from tests.helpers.whole_pipeline import run

PARAMS = """
prepare: {corpus: story.txt}
split: {train_fraction: 0.5, test_fraction: 0.25}
model: {n_layer: 1, n_head: 2, n_embd: 16, context_length: 32}
train: {epochs: 2, batch_size: 4, eval_every: 1, learning_rate: 0.01, sample_prompt: He}
sample: {max_new_tokens: 2, prompts: [He], grid: {temperature: [0.0], top_k: [1]}}
gpt2: {source: gpt2, sizes: [355M, 774M]}
compare: {prompts: [He], max_new_tokens: 2}
"""
OURS = ("untrained", "scratch (best)", "scratch (last)")
GPT2 = "GPT-2 medium (355M)"
SPLITS = ("train", "val", "test")
TOKENS, SCRATCH = Path("data/tokens"), Path("models/scratch")
EVALUATION, TOKEN_LOSSES = Path("reports/evaluate.json"), Path("reports/token_losses/scratch")
TABLE = Path("reports/comparison.json")


def measure(*sizes: str) -> None:
    for size in sizes:
        run(f"fetch_gpt2@{size}")
        run(f"baseline@{size}")
    run("compare")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A repository in which every stage has run; a GPT-2 by `transformers`, another not there."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("verify") / "repository"
    (folder / ".dvc").mkdir(parents=True)
    (folder / "params.yaml").write_text(PARAMS)
    (folder / "story.txt").write_text(STORY.read_text()[:1500])
    torch.manual_seed(1)
    their = GPT2Config(n_positions=64, n_embd=8, n_head=2, n_layer=2)
    GPT2LMHeadModel(their).save_pretrained(folder / "gpt2/355M")
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setattr(fetch, "verify_apart", fetch.verify_here)
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        patch.setenv("LOSSBOOK_CACHE", str(folder.parent / "cache"))
        for stage in ("identify", "prepare", "split", "train", "evaluate", "sample"):
            run(stage)
        measure("355M", "774M")
        yield folder


@pytest.fixture
def repository(made: Path) -> Iterator[Path]:
    """The same, to change: its files are as they were afterwards."""
    files = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    yield made
    for path, content in files.items():
        if not path.exists() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def verify(*arguments: str) -> Result:
    done = CliRunner().invoke(main, ["verify", *arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done


def wrong(*arguments: str) -> list[str]:
    """What it finds wrong; it must end with status 1, and with the largest difference."""
    done = verify(*arguments)
    assert done.exit_code == 1, done.output
    lines = done.stdout.splitlines()
    found = [line.removeprefix("wrong: ") for line in lines if line.startswith("wrong: ")]
    assert lines[-1].startswith("largest difference: ")
    assert lines[-1].endswith(f": {len(found)} problem{'s' * (len(found) != 1)}")
    return found


def about(lines: list[str]) -> set[tuple[str, str]]:
    """The rows that the lines name."""
    heads = [line.partition(": ")[0].rpartition(", ") for line in lines]
    return {(model, split) for model, _, split in heads if split in SPLITS}


def test_all_is_as_reported(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(made.rglob("*"))
    done = verify()
    assert done.exit_code == 0, done.output
    assert (sorted(made.rglob("*")), list(tmp_path.iterdir())) == (before, [])
    heading, *rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line]
    assert heading[:5] == ["model", "split", "windows", "reported", "recomputed"]
    assert [row[:2] for row in rows] == [
        [model, split] for model in (*OURS, GPT2) for split in SPLITS
    ]
    for row in rows:
        assert float(row[5]) < 1e-6
        assert (len(row) == 7) == (row[1] != "train")
    *_, unavailable, last = done.stdout.splitlines()
    assert unavailable.startswith("not verified: GPT-2 large (774M): unavailable: gpt2.source is")
    assert last.startswith("largest difference: ")
    assert last.endswith(" of a single token: all as reported")


def test_another_tensor(repository: Path) -> None:
    state = torch.load(SCRATCH / "best.pth")
    state["h.0.mlp.c_fc.weight"][3, 5] += 1.0
    save_whole(SCRATCH / "best.pth", state)
    write_sums(SCRATCH)
    assert about(wrong()) == {("scratch (best)", split) for split in SPLITS}


def test_another_token(repository: Path) -> None:
    path = TOKENS / "val/00000.bin"
    tokens = np.fromfile(path, "<u2")
    tokens[50] = 11 if tokens[50] != 11 else 13  # a comma, or a full stop
    tokens.tofile(path)
    write_sums(TOKENS / "val")
    found = wrong()
    assert found[0].startswith("data/tokens/val: token 50 is no token of the text in data/corpus: ")
    assert about(found) == {(model, "val") for model in (*OURS, GPT2)}


def test_windows_that_begin_elsewhere(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage measures windows that begin at the second token."""
    read = Windows.__dict__["_gather"]

    def late(self: Windows, indices: range) -> np.ndarray:
        rows = read(self, indices)
        return np.concatenate([rows[:, 1:], rows[:, :1]], axis=1)

    with monkeypatch.context() as patch:
        patch.setattr(Windows, "_gather", late)
        run("evaluate")
    assert about(wrong()) == {(model, split) for model in OURS for split in SPLITS}


def test_other_numbers_in_the_report(repository: Path) -> None:
    """Each row has another number that is wrong; the file has a seal that is right."""
    report = EvaluationReport.read(EVALUATION)

    def changed(losses: SplitLosses, split: str, number: str, by: float) -> SplitLosses:
        one = losses.by_split[split]
        other = one.model_copy(update={number: getattr(one, number) + by})
        return losses.model_copy(update={split: other})

    untrained = changed(report.untrained, "train", "loss", 0.001)
    untrained = changed(untrained, "val", "perplexity", 20.0)
    untrained = changed(untrained, "test", "bits_per_byte", 0.001)
    best = changed(changed(report.best, "train", "tokens", 1), "val", "windows", 1)
    report.model_copy(update={"untrained": untrained, "best": best}).write(EVALUATION)
    assert about(found := wrong()) == {
        *(("untrained", split) for split in SPLITS),
        *(("scratch (best)", split) for split in ("train", "val")),
    }
    for words in ("the loss is", "the perplexity's logarithm is", "bits per byte is"):
        assert any(f": {words} " in line and f" in {EVALUATION} and " in line for line in found)
    for words in ("tokens in reports/evaluate.json and", "windows in reports/evaluate.json and"):
        assert any(words in line for line in found)


def test_other_numbers_in_the_tables(repository: Path) -> None:
    table, path = json.loads(TABLE.read_text()), TABLE.with_suffix(".csv")
    table["rows"][1]["val_loss"] += 1e-6
    table["models"]["untrained"]["val_loss"] += 1e-6
    del table["rows"][2]
    TABLE.write_text(json.dumps(table))
    rows = list(csv.reader(path.read_text().splitlines()))
    column = rows[0].index("val_perplexity")
    rows[4][column] = "1" + rows[4][column]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    untrained, best, last, of_csv = wrong()
    assert untrained.startswith("untrained, val: val_loss is ")
    assert best.startswith("scratch (best), val: val_loss is ")
    assert f" in {TABLE} where the reports have " in best
    assert last == f"scratch (last): not once in each of {TABLE} and {path}"
    assert of_csv.startswith(f"{GPT2}, val: val_perplexity is '1")
    assert f" in {path} where " in of_csv


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("difference", 1.5),
        ("difference_interval", [-9.0, -8.0]),
        ("val_loss_interval", [0.1, 0.2]),
        ("loss_without_copies", 1.0),
        ("parameters", 7),
        ("interval_note", "all is well"),
    ],
)
def test_a_cell_that_nobody_measured(repository: Path, column: str, value: object) -> None:
    table = json.loads(TABLE.read_text())
    table["rows"][0][column] = value
    TABLE.write_text(json.dumps(table))
    (line,) = wrong()
    assert f": {column} is " in line
    assert f" in {TABLE} where the reports have " in line


def test_a_row_that_nobody_measured(repository: Path) -> None:
    table = json.loads(TABLE.read_text())
    table["rows"].append({**table["rows"][1], "model": "GPT-5"})
    TABLE.write_text(json.dumps(table))
    assert wrong() == [f"'GPT-5': a row of {TABLE} that the reports and gpt2.sizes lack"]


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_a_number_that_is_not_finite_is_empty_or_itself(number: float) -> None:
    assert all(_same(cell, number) for cell in (None, "", str(number), number))
    assert not _same(1.0, number)
    assert not _same(number, 1.0)
    assert not _same(None, 1.0)


def test_settings_that_are_no_longer_those_measured(repository: Path) -> None:
    Path("params.yaml").write_text(PARAMS + "evaluate: {windows: 1}\n")
    done = verify()
    assert done.exit_code == 1, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "has losses of 2 validation windows, where evaluate.windows in params.yaml" in line


def change_token_loss(window: int) -> None:
    path = TOKEN_LOSSES / "best.val.npy"
    losses = np.load(path)
    losses[window, 7] += 0.01
    np.save(path, losses)
    write_sums(TOKEN_LOSSES)


def test_another_loss_of_a_token(repository: Path) -> None:
    change_token_loss(1)
    mean, token = wrong()
    assert mean.startswith("scratch (best), val: the loss is ")
    assert " in reports/evaluate.json, the mean of its tokens' losses " in mean
    assert "scratch (best), val: a token's loss in reports/token_losses/scratch differs" in token


def test_some_windows(repository: Path) -> None:
    done = verify("--windows", "1")
    assert done.exit_code == 0, done.output
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line][1:]
    assert [row[1:3] for row in rows] == [["val", "1 of 2"], ["test", "1 of 2"]] * 4
    assert "\nnot verified: train: losses by token are kept of validation and test" in done.stdout
    change_token_loss(0)
    done = verify("--windows", "1", "--json")
    assert done.exit_code == 1
    found = json.loads(done.stdout)
    assert about(found["problems"]) == {("scratch (best)", "val")}
    assert len(found["rows"]) == 8
    assert found["bounds"]["fp32"] == {"loss": 1e-4, "token": 1e-3}
    assert found["rows"][2]["token_difference"] == pytest.approx(0.01, rel=0.01)


FILES = [
    *(EVALUATION, TABLE, TABLE.with_suffix(".csv"), SCRATCH / "best.pth", SCRATCH / "start.json"),
    *(TOKENS / "val/00000.bin", TOKENS / "train/meta.json", TOKEN_LOSSES / "last.test.npy"),
    *(Path("data/corpus/00000.parquet"), Path("reports/gpt2/355M.json")),
]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_that_is_missing_is_one_line(repository: Path, path: Path) -> None:
    path.unlink()
    done = verify()
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(("tokens", "veri"))]
    assert line.startswith(f"Error: {path}: ")


@pytest.mark.parametrize(
    "path", [EVALUATION, SCRATCH / "model.pth", TOKENS / "val/00000.bin"], ids=str
)
def test_a_file_that_was_changed_is_one_line(repository: Path, path: Path) -> None:
    raw = path.read_bytes()
    middle = raw.index(b": 1") + 2 if path == EVALUATION else len(raw) // 2
    path.write_bytes(raw[:middle] + bytes([raw[middle] ^ 3]) + raw[middle + 1 :])
    done = verify()
    assert done.exit_code == 1
    assert f"Error: {path}: " in done.stderr
    assert "changed after it was written" in done.stderr


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (0, "data/tokens/train: "),
        (10**6, "tokens make no window of 1000000"),
        (33, "reports/evaluate.json: context_length is 33, but untrained reads 32 tokens at most"),
    ],
)
def test_a_context_that_cannot_be_is_one_line(repository: Path, length: int, said: str) -> None:
    Path("params.yaml").write_text(PARAMS.replace("355M, ", ""))
    report = EvaluationReport.read(EVALUATION)
    report.model_copy(update={"context_length": length}).write(EVALUATION)
    done = verify()
    assert done.exit_code == 1
    assert "Error: " in done.stderr
    assert said in done.stderr


def test_without_the_corpus(repository: Path) -> None:
    shutil.rmtree("data/corpus")
    done = verify("--windows", "1")
    assert done.exit_code == 0
    assert "\nnot verified: the text that the tokens are of: data/corpus is not" in done.stdout


def test_without_transformers(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = verify()
    assert done.exit_code == 1
    assert done.output == (
        "Error: lossbook verify needs a package: pip install 'lossbook[verify]'\n"
    )


@pytest.mark.slow
def test_a_checkpoint_in_openais_layout(repository: Path) -> None:
    write_checkpoint(Path("gpt2/124M"), TINY)
    Path("params.yaml").write_text(PARAMS.replace("355M", "124M"))
    measure("124M", "774M")
    done = verify()
    assert done.exit_code == 0, done.output
    assert done.stdout.count("GPT-2 small (124M)\t") == 3
    write_checkpoint(Path("gpt2/124M"), TINY, seed=1)
    assert "the weights are not those of reports/gpt2/124M.json" in verify().stderr


@pytest.mark.slow
def test_evaluate_windows_and_bf16(repository: Path) -> None:
    """One window of each split, GPT-2 in bf16, whose bound is wider."""
    some = PARAMS.replace("gpt2: {", "gpt2: {precision: bf16, ") + "evaluate: {windows: 1}\n"
    Path("params.yaml").write_text(some)
    run("evaluate")
    measure("355M", "774M")
    done = verify("--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert {row["windows"] for row in rows} == {1}
    half = [row for row in rows if row["precision"] == "bf16"]
    assert {row["model"] for row in half} == {GPT2}
    assert max(row["difference"] for row in half) > 1e-5
    Path("params.yaml").write_text(PARAMS)
    done = verify()
    assert done.exit_code == 1
    assert "has losses of 1 validation window, where evaluate.windows" in done.stderr
