"""Rows for averaged weights and for an ensemble of seeds: real runs, evaluated, compared, verified."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from scipy.special import logsumexp

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.identify import identify_members
from pipeline.model.saved import save_weights
from pipeline.params import load_params
from pipeline.reports import EvaluationReport
from pipeline.system.checksums import write_sums
from pipeline.tokens.token_losses import TokenLosses
from stages.evaluate import main as evaluate_stage
from tests.helpers.real_stage import STORY
from tests.helpers.whole_pipeline import STAGES, run

PARAMS = """
seed: {seed}
prepare: {{corpus: story.txt}}
split: {{train_fraction: 0.7}}
model: {{n_layer: {layers}, n_head: 2, n_embd: 16, context_length: 32}}
train: {{max_steps: 12, batch_size: 4, eval_every: 6, learning_rate: 0.01, sample_prompt: He}}
evaluate: {{ensemble: [{ensemble}]}}
sample: {{max_new_tokens: 2, prompts: [He], grid: {{temperature: [0.0], top_k: [1]}}}}
gpt2: {{sizes: []}}
compare: {{prompts: [He], max_new_tokens: 2}}
"""
SCRATCH, LOSSES = Path("models/scratch"), Path("reports/token_losses/scratch")
EVALUATION = Path("reports/evaluate.json")
ROWS = [
    *("untrained", "scratch (best)", "scratch (last)", "scratch (averaged)"),
    "ensemble of 3",
]


def write_params(seed: int, layers: int, *ensemble: str) -> None:
    Path("params.yaml").write_text(
        PARAMS.format(seed=seed, layers=layers, ensemble=", ".join(ensemble))
    )


def cached(data: bytes) -> Path:
    """Where DVC's cache keeps a file of these bytes."""
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return Path(".dvc/cache/files/md5", md5[:2], md5[2:])


def trained(seed: int, layers: int) -> str:
    """Train, and keep what DVC would; the run's key."""
    write_params(seed, layers)
    run("train")
    for name in ("best.pth", "config.json"):
        data = (SCRATCH / name).read_bytes()
        cached(data).parent.mkdir(parents=True, exist_ok=True)
        cached(data).write_bytes(data)
    return str(json.loads(Path("reports/train_run.json").read_text())["run"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Three seeds, one of them of another size; the last is here, with weights averaged by hand."""
    folder = tmp_path_factory.mktemp("rows") / "repository"
    (folder / ".dvc").mkdir(parents=True)
    (folder / "story.txt").write_text(STORY.read_text()[:6000])
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        write_params(1, 1)
        for stage in ("identify", "prepare", "split"):
            run(stage)
        runs = [trained(seed, layers) for seed, layers in ((1, 1), (2, 2), (3, 1))]
        best, last = (torch.load(SCRATCH / name) for name in ("best.pth", "model.pth"))
        save_weights(SCRATCH, {name: (best[name] + last[name]) / 2 for name in best}, "ema")
        write_sums(SCRATCH)
        write_params(3, 1, runs[0], runs[1], "trained")
        for stage in ("identify", "evaluate", "sample", "compare"):
            run(stage)
        yield folder


@pytest.fixture
def repository(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to change."""
    folder = Path(shutil.copytree(made, tmp_path / "repository", symlinks=True))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")
    return folder


def members() -> tuple[str, ...]:
    return load_params(Path("params.yaml")).evaluate.ensemble


def verify(*arguments: str) -> Result:
    done = CliRunner().invoke(main, ["verify", *arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done


def test_all_files_have_the_rows(made: Path) -> None:
    report = EvaluationReport.read(EVALUATION)
    assert list(report.measured) == ["untrained", "best", "last", "ema", "ensemble"]
    assert report.ema is not None
    assert report.ensemble is not None
    table = json.loads(Path("reports/comparison.json").read_text())
    assert list(table["models"]) == [
        *("untrained", "scratch_best", "scratch_last", "scratch_ema", "ensemble")
    ]
    rows = {row["model"]: row for row in table["rows"]}
    assert list(rows) == ROWS
    for name, losses in (("scratch (averaged)", report.ema), ("ensemble of 3", report.ensemble)):
        assert rows[name]["val_loss"] == losses.val.loss
        assert rows[name]["val_bits_per_byte"] == losses.val.bits_per_byte
        assert rows[name]["difference"] is not None
        assert rows[name]["interval_note"] == rows["untrained"]["interval_note"] + (
            "; its weights were chosen on these windows" if name == "ensemble of 3" else ""
        )
    sizes = [rows[name]["parameters"] for name in ("scratch (averaged)", "ensemble of 3")]
    assert sizes[1] == report.ensemble.parameters
    assert sizes[1] > 3 * sizes[0] == 3 * rows["scratch (best)"]["parameters"]
    lines = list(csv.DictReader(Path("reports/comparison.csv").read_text().splitlines()))
    assert [line["model"] for line in lines] == ROWS
    for suffix in ("md", "html"):
        text = Path(f"reports/comparison.{suffix}").read_text()
        assert all(name in text for name in ROWS)
    assert "; an ensemble of 3 reaches " in table["verdict"]
    assert f"<dd>{', '.join(members())}</dd>" in Path("reports/comparison.html").read_text()
    headline = json.loads(Path("reports/perplexity.json").read_text())
    assert headline["ema_val_perplexity"] == report.ema.val.perplexity
    assert headline["ensemble_val_bits_per_byte"] == report.ensemble.val.bits_per_byte
    journal = next(Path("journals/evaluate").glob("*.jsonl")).read_text()
    for metric in ("ema/val_loss", "ensemble/val_loss", "ensemble/train_bits_per_byte"):
        assert f'"{metric}"' in journal


def test_the_ensembles_tokens_are_those_of_its_members(made: Path) -> None:
    """Each member alone, as the stage measures it when it is what was trained last."""
    kept = TokenLosses.open(LOSSES)
    assert kept.meta.models == ("untrained", "best", "last", "ema", "ensemble")
    report = EvaluationReport.read(EVALUATION)
    assert report.ensemble is not None
    alone = json.loads(verify("--json").stdout)["rows"]
    (found,) = (r for r in alone if (r["model"], r["split"]) == ("ensemble of 3", "val"))
    mean = kept.of("ensemble", "val").mean(dtype=float)
    assert report.ensemble.val.loss == pytest.approx(mean, abs=1e-12)
    assert found["reported"] == report.ensemble.val.loss


def test_verify_computes_both_again(made: Path) -> None:
    done = verify()
    assert done.exit_code == 0, done.output
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line][1:]
    assert [row[:2] for row in rows] == [
        [name, split] for name in ROWS for split in ("train", "val")
    ]
    assert all(float(row[5]) < 1e-6 for row in rows)
    some = verify("--windows", "2")
    assert some.exit_code == 0, some.output
    assert "ensemble of 3\tval\t2 of " in some.stdout
