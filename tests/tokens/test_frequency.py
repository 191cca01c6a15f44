"""The loss of predicting tokens by their frequency."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline.tokens import frequency
from pipeline.tokens.frequency import loss_by_frequency
from pipeline.tokens.tokenizer import VOCABULARY
from pipeline.tokens.windows import Tokens, Windows
from tests.helpers.tokens import write_split


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_each_target_takes_what_its_count_says(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frequency, "CHUNK", chunk)
    train = np.random.default_rng(3).zipf(1.5, 500) % 400
    val = np.arange(41) * 3 % 120
    tokens = Tokens.open(write_split(tmp_path / "train", train[:200], train[200:]))
    windows = Windows.open(write_split(tmp_path / "val", val), 8)
    counts = Counter(train.tolist())
    new = len(counts) / (500 + len(counts)) / (VOCABULARY - len(counts))

    def nats(token: int) -> float:
        return -math.log(counts[token] / (500 + len(counts)) if token in counts else new)

    for indices in (range(5), range(0, 5, 2)):
        wanted = [nats(int(t)) for i in indices for t in val[i * 8 + 1 : i * 8 + 9]]
        assert loss_by_frequency(tokens, windows, indices) == pytest.approx(np.mean(wanted))


def test_only_the_first_of_very_many_tokens_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows = Windows.open(write_split(tmp_path / "val", [1] * 9), 8)
    few = Tokens.open(write_split(tmp_path / "few", [1, 2, 3, 1]))
    many = Tokens.open(write_split(tmp_path / "many", [1, 2, 3, 1, 4, 5]))
    monkeypatch.setattr(frequency, "MOST_COUNTED", 4)
    found = [loss_by_frequency(tokens, windows, range(1)) for tokens in (few, many)]
    assert found == [pytest.approx(-math.log(2 / 7))] * 2


def test_a_text_of_all_tokens_leaves_nothing_to_new_ones(tmp_path: Path) -> None:
    tokens = Tokens.open(write_split(tmp_path / "train", np.arange(VOCABULARY)))
    windows = Windows.open(write_split(tmp_path / "val", range(9)), 8)
    assert loss_by_frequency(tokens, windows, range(1)) == pytest.approx(math.log(VOCABULARY))
