"""A run's name says what is special about it."""

from __future__ import annotations

import pytest

from pipeline.tracking.run import run_name

DEFAULTS = {"train.learning_rate": 4e-4, "train.batch_size": 2, "model.n_layer": 12}


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, "lr=4e-04 bs=2"),
        ({"train.learning_rate": 2.5e-4}, "lr=2.5e-04 bs=2"),
        ({"train.learning_rate": 0.05}, "lr=0.05 bs=2"),
        ({"model.n_layer": 6, "train.batch_size": 8}, "lr=4e-04 bs=8 n_layer=6"),
    ],
)
def test_shows_the_usual_settings_then_what_differs(changed: dict, name: str) -> None:
    always = ["train.learning_rate", "train.batch_size"]
    assert run_name({**DEFAULTS, **changed}, DEFAULTS, always) == name


def test_no_top_k_is_all() -> None:
    values = {"sample.temperature": 0.7, "sample.top_k": None}
    assert run_name(values, values, list(values)) == "T=0.7 k=all"
