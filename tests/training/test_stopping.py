"""When a training ends."""

from __future__ import annotations

import pytest

from pipeline.params import Train
from pipeline.reports import HistoryRow
from pipeline.training.stopping import patience_is_over, total_steps


@pytest.mark.parametrize(
    ("settings", "steps"), [({}, 90), ({"max_steps": 7}, 7), ({"max_steps": 700, "epochs": 1}, 700)]
)
def test_max_steps_decides_where_it_is_given(settings: dict[str, object], steps: int) -> None:
    assert total_steps(9, Train.model_validate(settings)) == steps


@pytest.mark.parametrize(
    ("losses", "patience", "over"),
    [
        ([], 1, False),
        ([3.0], 1, False),
        ([3.0, 3.1], 1, True),
        ([3.0, 3.0], 1, True),  # as low is not lower
        ([3.0, 3.1, 2.9], 2, False),
        ([3.0, 3.1, 3.2], 2, True),
        ([3.0, 2.0, 2.1, 2.05], 2, True),
        ([3.0, 3.1, 3.2], None, False),
    ],
)
def test_patience(losses: list[float], patience: int | None, over: bool) -> None:
    history = [HistoryRow(i, i, i, 1.0, loss, 1e-3) for i, loss in enumerate(losses)]
    assert patience_is_over(history, patience) is over
