"""Rows of averaged weights and of an ensemble of seeds: real runs, measured, compared, verified."""

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
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.evaluation.ensemble import find_ensemble
from pipeline.params import load_params
from pipeline.reports import EvaluationReport, Members, SampleReport, Training
from pipeline.system.checksums import write_sums
from pipeline.system.files import sha256_of
from pipeline.tokens.splits import Splits
from pipeline.tokens.token_losses import TokenLosses
from tests.helpers.real_stage import STORY
from tests.helpers.tokens import write_split
from tests.helpers.whole_pipeline import run

PARAMS = """
seed: {seed}
prepare: {{corpus: story.txt}}
split: {{train_fraction: 0.7}}
model: {{n_layer: {layers}, n_head: 2, n_embd: 16, context_length: 32}}
train: {{max_steps: 8, batch_size: 4, eval_every: 4, learning_rate: 0.01, ema_decay: 0.9}}
evaluate: {{ensemble: [{ensemble}]}}
gpt2: {{sizes: []}}
compare: {{prompts: [He], max_new_tokens: 2}}
"""
SCRATCH, EVALUATION = Path("models/scratch"), Path("reports/evaluate.json")
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
    """Three seeds, one of them of another size; the last is here."""
    folder = tmp_path_factory.mktemp("rows") / "repository"
    (folder / ".dvc").mkdir(parents=True)
    (folder / "story.txt").write_text(STORY.read_text()[:3000])
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setenv("DVC_ROOT", str(folder))
        patch.setenv("LOSSBOOK_OFFLINE", "1")
        write_params(1, 1)
        for stage in ("identify", "prepare", "split"):
            run(stage)
        runs = [trained(seed, layers) for seed, layers in ((1, 1), (2, 2), (3, 1))]
        write_params(3, 1, runs[0], runs[1], "trained")
        SampleReport().write(Path("reports/sampling_grid.json"))
        for stage in ("identify", "evaluate", "compare"):
            run(stage)
        yield folder


def members() -> tuple[str, ...]:
    return load_params(Path("params.yaml")).evaluate.ensemble


def verify(*arguments: str) -> Result:
    done = CliRunner().invoke(main, ["verify", *arguments])
    assert isinstance(done.exception, SystemExit | None), done.exception
    return done


def test_every_file_has_both_rows(made: Path) -> None:
    report = EvaluationReport.read(EVALUATION)
    assert list(report.measured) == ["untrained", "best", "last", "ema", "ensemble"]
    assert report.ema is not None
    assert report.ensemble is not None
    at_the_end = Training.read(Path("reports/train.json")).ema
    assert at_the_end is not None
    assert report.ema.val.loss == pytest.approx(at_the_end.val_loss, rel=1e-6)
    table = json.loads(Path("reports/comparison.json").read_text())
    rows = {row["model"]: row for row in table["rows"]}
    assert list(rows) == ROWS
    assert [*table["models"]][3:] == ["scratch_ema", "ensemble"]
    best = rows["scratch (best)"]
    for name, losses in (("scratch (averaged)", report.ema), ("ensemble of 3", report.ensemble)):
        assert rows[name]["val_loss"] == losses.val.loss
        assert rows[name]["val_bits_per_byte"] == losses.val.bits_per_byte
        assert rows[name]["difference"] is not None
    assert rows["scratch (averaged)"]["interval_note"] == rows["untrained"]["interval_note"]
    assert rows["ensemble of 3"]["interval_note"] == best["interval_note"]
    assert rows["scratch (averaged)"]["parameters"] == best["parameters"]
    assert rows["ensemble of 3"]["parameters"] > 3 * best["parameters"]
    lines = list(csv.DictReader(Path("reports/comparison.csv").read_text().splitlines()))
    assert [line["model"] for line in lines] == ROWS
    for suffix in ("md", "html"):
        text = Path(f"reports/comparison.{suffix}").read_text()
        assert all(name in text for name in ROWS)
    assert f"{', '.join(members())}</dd>" in text
    assert "; an ensemble of 3 reaches " in table["verdict"]
    headline = json.loads(Path("reports/perplexity.json").read_text())
    assert headline["ema_val_perplexity"] == report.ema.val.perplexity
    assert headline["ensemble_val_bits_per_byte"] == report.ensemble.val.bits_per_byte
    journal = next(Path("journals/evaluate").glob("*.jsonl")).read_text()
    for metric in ("ema/val_loss", "ensemble/val_loss", "ensemble/train_bits_per_byte"):
        assert f'"{metric}"' in journal
    kept = TokenLosses.open(Path("reports/token_losses/scratch"))
    mean = kept.of("ensemble", "val").mean(dtype=float)
    assert report.ensemble.val.loss == pytest.approx(mean, rel=1e-12)


def test_what_the_ensemble_reads_is_noted_but_for_what_is_to_be_trained(made: Path) -> None:
    noted = Members.read(Path("reports/ensemble.json")).members
    one, two, trained = members()
    assert trained == "trained"
    assert [*noted] == [one, two]
    weights = Path(".lossbook/starts/best", one, "best.pth")
    assert noted[one] == {p.name: sha256_of(p) for p in (weights.with_name("config.json"), weights)}
    assert noted[one]["best.pth"] != noted[two]["best.pth"]


def test_a_run_that_learnt_from_another_text_or_is_there_twice_is_refused(
    made: Path, tmp_path: Path
) -> None:
    for name in ("train", "val"):
        write_split(tmp_path / name, range(100))
    other, ours = (Splits.open(folder, 32) for folder in (tmp_path, made / "data/tokens"))
    assert len(find_ensemble(members(), ours)) == 3
    with pytest.raises(UserError, match=rf"^evaluate.ensemble: '{members()[0]}' was trained on ot"):
        find_ensemble(members(), other)
    with pytest.raises(UserError, match=r"'models/scratch' has the weights of 'trained'; name"):
        find_ensemble([*members(), "models/scratch"], ours)
    copy = shutil.copytree("models/scratch", tmp_path / "copy")  # as another run with these weights
    with pytest.raises(UserError, match=r"copy' has the weights of 'trained'; name each model"):
        find_ensemble([*members(), str(copy)], ours)


def test_weights_that_the_cache_has_lost_are_one_line(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "repository", symlinks=True))
    one = members()[0]
    lost = cached((made / ".lossbook/starts/best" / one / "best.pth").read_bytes())
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_ROOT", str(folder))
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")
    lost.unlink()
    before = EVALUATION.read_bytes()
    for stage in ("identify", "evaluate"):
        with pytest.raises(AssertionError) as caught:
            run(stage)
        said = str(caught.value).splitlines()[0]
        assert said.startswith(f"Error: evaluate.ensemble: run {one} (")
        assert "its best.pth is neither here nor in DVC's cache; `dvc pull` may bring it" in said
    assert EVALUATION.read_bytes() == before


@pytest.mark.slow
def test_verify_computes_both_again(made: Path) -> None:
    done = verify()
    assert done.exit_code == 0, done.output
    rows = [line.split("\t") for line in done.stdout.splitlines() if "\t" in line][1:]
    splits = ("train", "val")
    assert [row[:2] for row in rows] == [[name, split] for name in ROWS for split in splits]
    assert all(float(row[5]) < 1e-6 for row in rows)
    assert "ensemble of 3\tval\t1 of " in verify("--windows", "1").stdout
    path = Path("reports/token_losses/scratch/ensemble.val.npy")
    losses, before = np.load(path), path.read_bytes()
    losses[0, 7] += 0.01
    np.save(path, losses)
    write_sums(path.parent)
    done = verify("--windows", "1")
    path.write_bytes(before)
    write_sums(path.parent)
    assert done.exit_code == 1, done.output
    assert (
        "wrong: ensemble of 3, val: a token's loss in reports/token_losses/scratch" in done.stdout
    )
    lost = cached((made / ".lossbook/starts/best" / members()[1] / "best.pth").read_bytes())
    away = lost.rename(made / "away")
    try:
        done = verify("--windows", "1")
    finally:
        away.rename(lost)
    assert done.exit_code == 0, done.output
    assert f"not verified: ensemble of 3: evaluate.ensemble: run {members()[1]} (" in done.stdout
    assert "ensemble of 3\t" not in done.stdout
