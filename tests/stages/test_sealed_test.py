"""A test split from end to end: what is judged on it, and that it chooses nothing."""

from __future__ import annotations

import csv
import json
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.tokens.token_losses import TokenLosses
from pipeline.tokens.tokenizer import END_OF_TEXT
from pipeline.tokens.windows import Windows
from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.stages.test_train import STORY, invoke, tokenise, train

PARAMS = {
    "seed": 5,
    "prepare": {"corpus": "story.txt"},
    "split": {"train_fraction": 0.7, "test_fraction": 0.15},
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "context_length": 32},
    "train": {"epochs": 2, "batch_size": 4, "eval_every": 3},
    "evaluate": {"batch_size": 64},
    "gpt2": {"sizes": []},
    "compare": {"prompts": []},
}
FILES = {
    "corpus": "c.json",
    "split": "s.json",
    "tokens": "data/tokens",
    "train": "reports/train.json",
    "history": "reports/history.csv",
    "evaluate": "reports/evaluate.json",
    "baselines": "reports/baselines",
    "token-losses": "reports/token_losses",
    "parent": "reports/train_run.json",
    "reports": "reports",
    "journal": "journals/compare",
}


def run(command: str, *arguments: str, **files: str) -> str:
    words = [word for name, file in files.items() for word in (f"--{name}", file)]
    done = invoke(command, *arguments, *words)
    assert done.exit_code == 0, done.output
    return done.output


def train_and_evaluate(folder: Path, corpus: str, text: str, sizes: list[str]) -> dict[str, Any]:
    """Run the stages up to evaluate on a corpus in `folder`; what `evaluate.json` holds."""
    folder.mkdir()
    (folder / ".dvc").mkdir()
    (folder / corpus).write_text(text, encoding="utf-8")
    params = PARAMS | {
        "prepare": {"corpus": corpus},
        "gpt2": {"sizes": sizes, "source": str(folder.parent / "gpt2")},
    }
    (folder / "params.yaml").write_text(json.dumps(params))
    with chdir(folder):
        tokenise()
        assert train().exception is None
        run(
            "evaluate",
            tokens="data/tokens",
            model="models/scratch",
            parent="reports/train_run.json",
            report="reports/evaluate.json",
            metrics="reports/perplexity.json",
            **{"token-losses": "reports/token_losses/scratch"},
            journal="journals/evaluate",
        )
        return json.loads(Path("reports/evaluate.json").read_text())


def measure_and_compare(folder: Path, sizes: list[str]) -> dict[str, Any]:
    """Run the stages after it; what `comparison.json` holds."""
    with chdir(folder):
        for size in sizes:
            run("fetch_gpt2", "--size", size, report=f"reports/gpt2/{size}.json")
            run(
                "baseline",
                *("--size", size),
                weights=f"reports/gpt2/{size}.json",
                tokens="data/tokens",
                report=f"reports/baselines/{size}.json",
                **{"token-losses": f"reports/token_losses/{size}"},
                journal=f"journals/baseline/{size}",
            )
        run("compare", **FILES)
        return json.loads(Path("reports/comparison.json").read_text())


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")


CHOSEN = [
    *(f"models/scratch/{name}" for name in ("model.pth", "best.pth", "optimizer.pth")),
    *(f"reports/{name}" for name in ("train.json", "history.csv", "perplexity.json", "loss.png")),
]


@pytest.mark.slow
def test_another_test_text_changes_no_chosen_thing(tmp_path: Path) -> None:
    story = STORY.read_text()[:6000]
    kept = int(6000 * 0.85)
    other = story[:kept] + story[kept:].swapcase()
    one, two = (
        train_and_evaluate(tmp_path / name, "story.txt", text, [])
        for name, text in (("one", story), ("two", other))
    )
    for name in CHOSEN:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for first, second in ((one, two), (one["best"], two["best"])):
        assert first["train"] == second["train"]
        assert first["val"] == second["val"]
        assert first["test"]["loss"] != second["test"]["loss"]


def documents(count: int) -> str:
    """As JSON Lines; of one to four of the story's sentences."""
    sentences = [s for s in STORY.read_text().replace("\n", " ").split(". ") if 20 < len(s) < 60]
    rng = np.random.default_rng(3)
    texts = (". ".join(rng.choice(sentences, rng.integers(1, 5))) for _ in range(count))
    return "".join(json.dumps({"text": f"{i}. {text}."}) + "\n" for i, text in enumerate(texts))


def by_document(tokens: Path, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each document's nats and targets, counted one by one."""
    windows = Windows.open(tokens, losses.shape[1])
    targets = windows.targets(range(len(windows))).ravel()
    number = np.cumsum(np.roll(targets == END_OF_TEXT, 1) & (np.arange(targets.size) > 0))
    return np.bincount(number, losses.ravel().astype(float)), np.bincount(number)


@pytest.mark.slow
def test_many_documents_and_a_gpt2(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.gpt2 import fetch

    monkeypatch.setattr(fetch, "verify_apart", fetch.verify_here)
    write_checkpoint(tmp_path / "gpt2/124M", TINY)
    folder = tmp_path / "many"
    train_and_evaluate(folder, "texts.jsonl", documents(300), ["124M"])
    found = measure_and_compare(folder, ["124M"])
    rows = {row["model"]: row for row in found["rows"]}
    assert list(rows) == ["untrained", "scratch (best)", "scratch (last)", "GPT-2 small (124M)"]
    kept = {
        name: (folder / "reports/token_losses" / place, model)
        for name, (place, model) in {
            "untrained": ("scratch", "untrained"),
            "scratch (best)": ("scratch", "best"),
            "scratch (last)": ("scratch", "last"),
            "GPT-2 small (124M)": ("124M", "124M"),
        }.items()
    }
    for split in ("val", "test"):
        sums = {}
        for name, (place, model) in kept.items():
            losses = np.array(TokenLosses.open(place).of(model, split))
            sums[name], counts = by_document(folder / "data/tokens" / split, losses)
            row = rows[name]
            assert row[f"{split}_loss"] == pytest.approx(losses.mean(dtype=float), abs=1e-5)
            low, high = row[f"{split}_loss_interval"]
            assert (low + high) / 2 == pytest.approx(sums[name].sum() / counts.sum())
            assert high - low == pytest.approx(width(sums[name], counts), rel=0.1)
            assert f" {len(counts)} documents of " in row["interval_note"]
    for name, row in rows.items():
        low, high = row["difference_interval"]
        assert high - low == pytest.approx(
            width(sums[name] - sums["scratch (best)"], counts), rel=0.1
        )
        best = rows["scratch (best)"]["test_loss"]
        assert row["difference"] == row["test_loss"] - best
    assert "predicts the test text with a perplexity of" in found["verdict"]
    table = list(csv.DictReader((folder / "reports/comparison.csv").read_text().splitlines()))
    assert [float(line["test_loss_low"]) for line in table] == [
        row["test_loss_interval"][0] for row in rows.values()
    ]
    html = (folder / "reports/comparison.html").read_text(encoding="utf-8")
    for said in ("test bits per byte", "Test loss by model", "the test chose nothing"):
        assert said in html


def width(sums: np.ndarray, counts: np.ndarray) -> float:
    """Of the interval of a ratio: by its linearised variance, which the jackknife is close to."""
    residuals = sums - sums.sum() / counts.sum() * counts
    return float(2 * 1.98 * np.sqrt((residuals**2).sum()) / counts.sum())
