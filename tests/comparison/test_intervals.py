"""Intervals and differences of real rows, from losses by token on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.comparison.columns import cells, comparison_report, flat_cells, metrics, to_markdown
from pipeline.comparison.intervals import missing_reference, with_intervals
from pipeline.comparison.kept import read_kept
from pipeline.comparison.report import notes
from pipeline.comparison.table import Comparison, read_comparison
from pipeline.comparison.verdict import comparison_verdict
from pipeline.errors import UserError
from pipeline.numbers import perplexity
from pipeline.reports import BaselineReport, EvaluationReport, Losses, SplitLosses
from pipeline.system.checksums import write_sums
from pipeline.tokens.splits import Splits
from pipeline.tokens.token_losses import kept_losses
from pipeline.tokens.tokenizer import END_OF_TEXT
from pipeline.tokens.windows import META, SplitMeta
from tests.helpers.make_golden import GOLDEN
from tests.helpers.tokens import write_split

LENGTH = 16
LITTLE = (
    "too little text (8 documents of 58 tokens on average; it takes 10 documents of like size, or "
    "a single one of 6,144 tokens)"
)
MEANS = {"untrained": 10.8, "best": 6.0, "last": 6.5, "124M": 3.5}


def losses_of(values: np.ndarray) -> Losses:
    loss = float(values.mean(dtype=np.float64))
    return Losses(
        loss=loss,
        perplexity=perplexity(loss),
        bits_per_byte=loss / 3,
        tokens=values.size,
        windows=len(values),
    )


def mark_copied(folder: Path, tokens: int) -> None:
    meta = SplitMeta.read(folder / META)
    (np.arange(meta.tokens) < tokens).astype("u1").tofile(folder / "shared.bin")
    meta.model_copy(update={"shared": "shared.bin"}).write(folder / META)
    write_sums(folder)


class World:
    """A repository's reports and tokens, of so many documents a split, of 60 tokens each.

    The first documents of validation and test, so many as are `copied`, stand in training too.
    """

    def __init__(
        self, folder: Path, val: int = 200, test: int = 0, copied: int = 0, **means: float
    ) -> None:
        self.folder = folder
        rng = np.random.default_rng(7)
        for name, documents in {"train": 9, "val": val, "test": test}.items():
            if documents:
                text = np.tile([*range(100, 159), END_OF_TEXT], documents)
                text[::60] = 1000 + np.arange(documents)  # equal documents would be one unit
                write_split(folder / "tokens" / name, text)
            if documents and name != "train":
                mark_copied(folder / "tokens" / name, copied * 60)
        self.splits = Splits.open(folder / "tokens", LENGTH)
        easy = {name: rng.normal(0, 1, (len(w), 1)) for name, w in self.splits.windows.items()}
        self.losses = {
            model: {
                name: (mean + shared + rng.normal(0, 0.1, (len(shared), LENGTH))).astype("f4")
                for name, shared in easy.items()
            }
            for model, mean in {**MEANS, **means}.items()
        }
        self.write()

    def write(self) -> None:
        split = {
            model: SplitLosses(**{name: losses_of(v) for name, v in by.items()})
            for model, by in self.losses.items()
        }
        sha256, last, small = self.splits.corpus_sha256, split["last"], split["124M"]
        EvaluationReport(
            corpus_sha256=sha256,
            context_length=LENGTH,
            **last.by_split,
            best=split["best"],
            untrained=split["untrained"],
        ).write(self.folder / "evaluate.json")
        BaselineReport(
            model="124M",
            status="measured",
            parameters=124_439_808,
            context_length=LENGTH,
            corpus_sha256=sha256,
            **small.by_split,
        ).write(self.folder / "baselines/124M.json")
        for folder, models in {"scratch": ["untrained", "best", "last"], "124M": ["124M"]}.items():
            with kept_losses(self.folder / "token_losses" / folder, self.splits, models) as kept:
                for model in models:
                    for name, values in self.losses[model].items():
                        kept.append(model, name, values)

    def compared(self, *sizes: str, reference: str | None = None) -> Comparison:
        comparison = read_comparison(
            self.folder / "evaluate.json",
            GOLDEN / "train.json",
            self.folder / "baselines",
            sizes or ("124M",),
            reference=reference,
        )
        kept = read_kept(comparison, self.folder / "token_losses", self.splits)
        return with_intervals(comparison, kept)


def test_many_documents_give_intervals_by_document(tmp_path: Path) -> None:
    comparison = World(tmp_path).compared("124M", "1558M")
    rows = {key: cells(row) for key, row in comparison.models.items()}
    for key in ("untrained", "scratch_best", "scratch_last", "gpt2_124M"):
        low, high = rows[key]["val_loss_interval"]
        assert low < rows[key]["val_loss"] < high
        assert high - low == pytest.approx(0.15, abs=0.1)
        assert rows[key]["test_loss_interval"] is None
        low, high = rows[key]["difference_interval"]
        difference = rows[key]["val_loss"] - rows["scratch_best"]["val_loss"]
        assert rows[key]["difference"] == difference
        # What windows have in common falls out of it.
        assert low <= difference <= high < low + 0.02
        assert rows[key]["interval_note"].startswith("200 documents of 60 tokens on average; ")
    assert rows["scratch_best"]["difference_interval"] == (0, 0)
    assert rows["scratch_best"]["interval_note"].endswith(
        "; its weights were chosen on these windows"
    )
    assert rows["gpt2_1558M"]["difference"] is None
    assert rows["gpt2_1558M"]["val_loss_interval"] is None
    assert rows["gpt2_1558M"]["interval_note"] == "not measured"


def test_little_text_gives_none_and_says_so(tmp_path: Path) -> None:
    comparison = World(tmp_path, val=8).compared()
    for row in map(cells, comparison.models.values()):
        assert row["val_loss_interval"] is None
        assert row["difference_interval"] is None
        assert LITTLE in row["interval_note"]
    assert cells(comparison.models["scratch_last"])["difference"] == pytest.approx(0.5, abs=0.05)
    assert f"Validation losses have no interval: {LITTLE}." in notes(comparison)
    assert comparison_verdict(comparison, 10).endswith(" (too little text for an interval).")


def test_a_test_split_is_what_models_are_judged_on(tmp_path: Path) -> None:
    world = World(tmp_path, val=8, test=100)
    world.losses["124M"]["val"] += 9.0  # the other way round on validation
    world.write()
    comparison = world.compared()
    row = cells(comparison.models["gpt2_124M"])
    assert row["val_loss_interval"] is None
    low, high = row["test_loss_interval"]
    assert low < row["test_loss"] < high
    best = cells(comparison.models["scratch_best"])
    assert row["difference"] == row["test_loss"] - best["test_loss"]
    assert row["interval_note"].startswith(f"validation: {LITTLE}; test: 100 doc")
    assert "chosen on these" not in best["interval_note"]
    said = comparison_verdict(comparison, 10)
    assert "reach a test perplexity of " in said
    assert "GPT-2 small, 124M, predicts the test text with a perplexity of " in said
    assert ", its loss lower by 2.5" in said
    table = to_markdown(comparison.models.values())
    assert "| test loss | test perplexity | test bits per byte | difference | status |" in table
    assert "chosen on these windows" not in table
    assert "Weights were chosen on validation; the test chose nothing." in notes(comparison)


def test_differences_are_from_the_reference_that_is_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    best, small = world.compared(), world.compared(reference="gpt2_124M")
    here, there = cells(small.models["scratch_best"]), cells(best.models["gpt2_124M"])
    assert here["difference"] == -there["difference"] == pytest.approx(2.5, abs=0.05)
    low, high = there["difference_interval"]
    assert here["difference_interval"] == pytest.approx((-high, -low))
    assert cells(small.models["gpt2_124M"])["difference_interval"] == (0, 0)
    # The sentence speaks of what was trained, whatever the table's reference is.
    assert comparison_verdict(small, 10) == comparison_verdict(best, 10)
    assert "Differences are from GPT-2 small (124M), " in " ".join(notes(small))


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        (["124M"], "is not in the table, as gpt2.sizes does not name it"),
        (["124M", "1558M"], "could not be measured"),
    ],
)
def test_a_reference_without_a_loss_is_named(tmp_path: Path, sizes: list[str], reason: str) -> None:
    comparison = World(tmp_path).compared(*sizes, reference="gpt2_1558M")
    row = cells(comparison.models["scratch_last"])
    assert (row["difference"], row["difference_interval"]) == (None, None)
    assert row["interval_note"].endswith(f"; no difference: compare.reference gpt2_1558M {reason}")
    assert row["val_loss_interval"] is not None
    assert f"No differences are shown: compare.reference gpt2_1558M {reason}." in notes(comparison)
    assert "difference" not in to_markdown(comparison.models.values())
    assert ", its loss lower by" in comparison_verdict(comparison, 10)
    for reference, setting in (
        ("scratch_ema", "train.ema_decay is null"),
        ("ensemble", "evaluate.ensemble is empty"),
    ):
        said = f"compare.reference {reference} is not in the table, as {setting}"
        assert missing_reference(replace(comparison, reference=reference)) == said


def test_a_loss_without_bounds_has_no_interval(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.losses["last"]["val"][3, 3] = np.inf
    world.write()
    comparison = world.compared()
    row = cells(comparison.models["scratch_last"])
    assert (row["val_loss_interval"], row["difference"]) == (None, None)
    assert row["interval_note"] == "a loss is not finite"
    assert cells(comparison.models["gpt2_124M"])["difference_interval"] is not None


def test_losses_of_other_windows_are_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    fewer = Splits.open(tmp_path / "tokens", LENGTH, most=200)
    with kept_losses(tmp_path / "token_losses/124M", fewer, ["124M"]) as kept:
        kept.append("124M", "val", world.losses["124M"]["val"][fewer.measured["val"]])
    with pytest.raises(UserError, match=r"scratch and .*124M cannot be compared: .*other windows"):
        world.compared()


def test_rows_without_losses_by_token_say_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    for path in (tmp_path / "token_losses/124M").iterdir():
        path.unlink()
    (tmp_path / "token_losses/124M").rmdir()
    row = cells(world.compared().models["gpt2_124M"])
    assert row["interval_note"] == "its losses by token were not kept"
    assert row["difference"] is None


@pytest.mark.parametrize("test", [0, 200])
def test_losses_without_copied_text(tmp_path: Path, test: int) -> None:
    world = World(tmp_path, test=test, copied=50)
    split = "test" if test else "val"
    windows = world.splits.windows[split]
    shared = windows.shared(range(len(windows)))
    assert shared is not None
    for by_split in world.losses.values():
        by_split[split][shared] -= 2.0  # known by heart
    world.write()
    comparison = world.compared("124M", "1558M")
    for name, key in (("best", "scratch_best"), ("124M", "gpt2_124M")):
        row = cells(comparison.models[key])
        new = world.losses[name][split][~shared].mean(dtype=float)
        assert row["loss_without_copies"] == pytest.approx(new)
        assert row["loss_without_copies"] == pytest.approx(row[f"{split}_loss"] + 0.5, abs=0.01)
        low, high = row["loss_without_copies_interval"]
        assert low < new < high < low + 0.4
    assert cells(comparison.models["gpt2_1558M"])["loss_without_copies"] is None
    assert "| difference | without copied text | status |" in to_markdown(
        comparison.models.values()
    )
    name = "test" if test else "validation"
    assert f"Without copied text: 25.0% of the {name} tokens stand in training too, in runs " in (
        " ".join(notes(comparison))
    )


def test_a_little_copied_text_is_no_column(tmp_path: Path) -> None:
    comparison = World(tmp_path, copied=9).compared()  # of 200
    assert cells(comparison.models["scratch_best"])["loss_without_copies"] is None
    assert "copied" not in to_markdown(comparison.models.values()) + " ".join(notes(comparison))


def test_files_and_metrics_hold_the_ends(tmp_path: Path) -> None:
    comparison = World(tmp_path, test=100).compared()
    report = comparison_report(comparison, "v").model_dump(mode="json")
    row, flat = report["rows"][3], flat_cells(comparison.models["gpt2_124M"])
    for name in ("val_loss", "test_loss", "difference"):
        assert row[f"{name}_interval"] == [flat[f"{name}_low"], flat[f"{name}_high"]]
        assert metrics(comparison)["gpt2_124M"][f"{name}_low"] == flat[f"{name}_low"]
    assert report["models"] == metrics(comparison)
