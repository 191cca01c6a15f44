"""A training whose losses leave all bounds: what comes after it runs on, and DVC reads it."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path

import pytest

from pipeline.reports import HISTORY_COLUMNS, PerplexityReport, Training
from tests.stages.test_train import STORY, history, invoke, tokenise, train

PARAMS = """
seed: 5
prepare: {corpus: story.txt}
split: {train_fraction: 0.8}
model: {n_layer: 1, n_head: 2, n_embd: 64, context_length: 64}
train: {epochs: 2, batch_size: 2, eval_every: 3, learning_rate: 10.0}
sample: {max_new_tokens: 8, prompts: [He said], grid: {temperature: [0.0, 1.4], top_k: [1, null]}}
gpt2: {sizes: []}
"""
TRAINED = ("--tokens", "data/tokens", "--model", "models/scratch", "--parent")
TRAINED += ("reports/train_run.json",)


@pytest.mark.slow
def test_perplexities_above_the_largest_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        subprocess.run(command, check=True)
    Path("params.yaml").write_text(PARAMS)
    Path("story.txt").write_text(STORY.read_text()[:4000])
    tokenise()
    done = train()
    assert done.exception is None, done.output
    assert "best at step 0, before training: 1" in done.output
    assert max(row["val_loss"] for row in history()) > 710
    assert list(history()[0]) == list(HISTORY_COLUMNS)
    assert Training.read(Path("reports/train.json")).best.step == 0

    done = invoke(
        "evaluate",
        *(*TRAINED, "--report", "reports/evaluate.json", "--metrics", "reports/perplexity.json"),
        *("--token-losses", "reports/token_losses/scratch", "--journal", "journals/evaluate"),
    )
    assert done.exception is None, done.output
    assert PerplexityReport.read(Path("reports/perplexity.json")).val_perplexity == math.inf

    done = invoke("sample", *TRAINED, "--reports", "reports", "--journal", "journals/sample")
    assert done.exception is None, done.output

    files = {
        "tokens": "data/tokens",
        "corpus": "c.json",
        "split": "s.json",
        "baselines": "reports/baselines",
    }
    files |= {name: f"reports/{name}.json" for name in ("train", "evaluate")}
    files |= {"history": "reports/history.csv", "token-losses": "reports/token_losses"}
    files |= {"samples": "reports/sampling_grid.json", "parent": "reports/train_run.json"}
    files |= {"reports": "reports", "journal": "journals/compare"}
    done = invoke(
        "compare", *(word for name, file in files.items() for word in (f"--{name}", file))
    )
    assert done.exception is None, done.output
    assert "never predict" in done.output
    assert "| ∞ |" in Path("reports/comparison.md").read_text(encoding="utf-8")

    Path("dvc.yaml").write_text("metrics: [reports/train.json, reports/perplexity.json]\n")
    shown = subprocess.run(
        ["dvc", "metrics", "show", "--json"], capture_output=True, text=True, check=True
    )
    metrics = json.loads(shown.stdout)[""]["data"]["reports/perplexity.json"]["data"]
    assert metrics["val_perplexity"] == "Infinity"
    for command in (["metrics", "show", "--md"], ["metrics", "diff"], ["exp", "show", "--csv"]):
        table = subprocess.run(["dvc", *command], capture_output=True, text=True, check=False)
        assert "Traceback" not in table.stderr
        assert "unexpected error" not in table.stderr
