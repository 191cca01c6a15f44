"""NaN, infinities and perplexities that no float holds are written, read back and shown."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.numbers import counted, perplexity, shown, to_json
from pipeline.reports import Losses, PerplexityReport

NOT_FINITE = [math.nan, math.inf, -math.inf]
LOSSES = st.floats(allow_nan=True, allow_infinity=True)


@given(loss=LOSSES)
def test_every_loss_has_a_perplexity(loss: float) -> None:
    found = perplexity(loss)
    assert math.isnan(found) == math.isnan(loss)
    assert found == (math.inf if loss > 709.79 else found) or math.isnan(loss)


def test_a_perplexity_is_exp_of_the_loss() -> None:
    assert perplexity(6.141) == math.exp(6.141)
    assert perplexity(709.0) == math.exp(709.0)
    assert perplexity(710.0) == math.inf
    assert perplexity(math.inf) == math.inf
    assert perplexity(-math.inf) == 0.0


@given(values=st.lists(LOSSES))
def test_json_holds_every_number(values: list[float]) -> None:
    text = json.dumps(to_json({"a": [values], "b": tuple(values)}), allow_nan=False)
    again = [float(value) for value in json.loads(text)["a"][0]]
    assert list(map(repr, again)) == list(map(repr, values))


@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_record_reads_back_what_it_wrote(value: float, tmp_path: Path) -> None:
    path = tmp_path / "perplexity.json"
    wrote = PerplexityReport(
        val_perplexity=value,
        val_bits_per_byte=1.5,
        best_val_perplexity=value,
        best_val_bits_per_byte=value,
    )
    wrote.write(path)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # strict JSON: no bare NaN
    read = PerplexityReport.read(path)
    assert repr(read) == repr(wrote)
    assert type(read.val_perplexity) is float


def test_losses_may_be_infinite() -> None:
    made = Losses(loss=800.0, perplexity=math.inf, bits_per_byte=1.0, tokens=8, windows=1)
    assert made.perplexity == math.inf


@pytest.mark.parametrize(
    ("value", "places", "text"),
    [
        (6.1412, 3, "6.141"),
        (457.3, 0, "457"),
        (56954.2, 0, "56,954"),
        (999_999.4, 0, "999,999"),
        (1e6, 0, "1.0 × 10⁶"),
        (1.23e305, 1, "1.2 × 10³⁰⁵"),
        (-1.23e12, 1, "-1.2 × 10¹²"),
        (math.inf, 3, "∞"),
        (-math.inf, 3, "-∞"),
        (math.nan, 3, "NaN"),
        (1e-300, 3, "0.000"),
    ],
)
def test_people_read(value: float, places: int, text: str) -> None:
    assert shown(value, places) == text


@given(value=LOSSES, places=st.integers(0, 4))
def test_no_number_takes_more_room_than_a_cell_has(value: float, places: int) -> None:
    assert len(shown(value, places)) <= 13


def test_one_is_singular() -> None:
    assert counted(1, "step") == "1 step"
    assert counted(0, "step") == "0 steps"
    assert counted(1200, "step") == "1,200 steps"
    assert counted(2, "entry", "entries") == "2 entries"
