"""What a training leaves behind."""

from __future__ import annotations

import math
import re
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model.start import Start
from pipeline.reports import HISTORY_COLUMNS, HistoryRow, Training
from pipeline.training.outputs import describe_outcome, save_training, summary, write_history


def evaluation(step: int, val_loss: float, train_loss: float = 1.0) -> HistoryRow:
    return HistoryRow(step, step / 10, step * 512, train_loss, val_loss, 4e-4)


def test_history_keeps_every_digit(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", [evaluation(3, 0.1 + 0.2)])
    head, row = (tmp_path / "history.csv").read_text().splitlines()
    assert head == "step,epoch,tokens_seen,train_loss,val_loss,learning_rate"
    assert head.split(",") == list(HISTORY_COLUMNS)
    assert row == "3,0.3,1536,1.0,0.30000000000000004,0.0004"


def test_the_outcome_says_where_it_was_best_and_what_came_since() -> None:
    rows = [evaluation(0, 10.9, 10.9), evaluation(60, 6.14), evaluation(100, 6.43, 0.59)]
    assert describe_outcome(rows, rows[1]) == (
        "validation loss was best at epoch 6.0 (step 60): 6.140; since then it rose by 0.290 to "
        "6.430 while training loss fell to 0.590"
    )
    assert "may fall further" in describe_outcome(rows[:2], rows[1])
    assert "loss over 1 of 11 windows was best" in describe_outcome(rows, rows[1], (1, 11))
    assert describe_outcome(rows, rows[1], (11, 11)) == describe_outcome(rows, rows[1])


LOSS = st.sampled_from([6.1, 6.1004, 6.2, 11.0, 476.8, 1e30, math.inf]) | st.floats(0, 20)


@given(
    losses=st.lists(st.tuples(LOSS | st.just(math.nan), LOSS), min_size=1, max_size=6),
    every=st.integers(1, 9),
)
def test_each_claim_of_the_outcome_is_what_the_numbers_say(
    losses: list[tuple[float, float]], every: int
) -> None:
    """`losses` are a training's and a validation's, by evaluation."""
    rows = [evaluation(i * every, val, train) for i, (train, val) in enumerate(losses)]
    best = min(rows, key=lambda row: row.val_loss)  # the first of equal ones, as a training keeps
    last, said = rows[-1], describe_outcome(rows, best)
    assert ("before training" in said) == (best.step == 0)
    assert ("may fall further" in said) == (best is last and last.step > 0)
    changes = re.fullmatch(r".*; since then it (\w+) .*while training loss (\w+) .*", said)
    assert (changes is None) == (best is last)
    if changes is not None:
        assert changes[1] == verb(best.val_loss, last.val_loss)
        assert changes[2] == verb(best.train_loss, last.train_loss)
        assert said.partition("rose by ")[2].partition(" to ")[0] != "0.000"


def verb(before: float, after: float) -> str:
    if before == after:
        return "ended"
    if not (math.isfinite(before) and math.isfinite(after)):
        return "became"
    return "rose" if after > before else "fell"


def test_the_summary_is_the_record_of_train_json(make_trainer, tmp_path: Path) -> None:
    rows = [evaluation(0, 10.9, 10.9), evaluation(60, 6.0), evaluation(100, 6.5, 0.5)]
    model = make_trainer()[0].model
    found = summary(model, rows, rows[1], [1.0, 2.5])
    found.write(tmp_path / "train.json")
    assert Training.read(tmp_path / "train.json") == found
    assert found.model_dump() == {
        "parameters": model.count_parameters(),
        "steps": 100,
        "tokens_seen": 51200,
        "best": {"step": 60, "epoch": 6.0, "val_loss": 6.0},
        "last": {"train_loss": 0.5, "val_loss": 6.5},
        "overfit": 0.5,
        "step_losses": {"steps": 2, "mean": 1.75},
    }


@pytest.mark.parametrize("bytes_left", [0, 500, 5000])
def test_a_full_disk_names_the_file_and_leaves_the_old_ones_whole(
    make_trainer, tmp_path: Path, bytes_left: int
) -> None:
    trainer, _ = make_trainer()
    trainer.run()
    start = Start(init_from="scratch", init="pytorch", seed=3)
    save_training(tmp_path / "model", trainer, start)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    del before["_SHA256SUMS"]  # the mark that all of them are of one training
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_left, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            save_training(tmp_path / "model", trainer, start)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    name = "best.pth" if bytes_left else "config.json"
    assert caught.value.filename == str(tmp_path / "model" / name)
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before
