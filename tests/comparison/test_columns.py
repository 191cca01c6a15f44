"""The comparison as CSV and Markdown, and what a new column takes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.comparison import columns
from pipeline.comparison.columns import (
    Column,
    comparison_report,
    metrics,
    of_losses,
    to_csv,
    to_markdown,
)
from pipeline.comparison.page import ComparisonPage, render_html
from pipeline.comparison.table import ComparedModel, Comparison
from pipeline.reports import EvaluationReport, Losses, SplitLosses, Training

TRAIN = Losses(loss=1.8400001, perplexity=6.3, bits_per_byte=0.7, tokens=160, windows=20)
VAL = Losses(loss=6.141234567890123, perplexity=464.62, bits_per_byte=2.161, tokens=24, windows=3)
ROWS = [
    ComparedModel("scratch (best)", 162419712, TRAIN, VAL),
    ComparedModel("GPT-2 XL (1558M)", published_val_loss=3.1195, reason='"a, b" | c\\'),
]


def test_csv_keeps_every_digit_and_any_words() -> None:
    text = to_csv(ROWS)
    assert text.splitlines()[0] == (
        "model,parameters,train_loss,val_loss,val_perplexity,val_bits_per_byte,"
        "published_val_loss,status,test_loss,test_perplexity,test_bits_per_byte,difference,"
        "loss_without_copies,interval_note,val_loss_low,val_loss_high,test_loss_low,"
        "test_loss_high,difference_low,difference_high,loss_without_copies_low,"
        "loss_without_copies_high"
    )
    first, second = csv.DictReader(io.StringIO(text))
    assert float(first["val_loss"]) == VAL.loss
    assert first["parameters"] == "162419712"
    assert second["val_loss"] == ""
    assert second["status"] == 'unavailable: "a, b" | c\\'
    assert "\r" not in text


def test_markdown_rounds_and_escapes() -> None:
    rows = [ROWS[0], replace(ROWS[1], name="GPT-2 XL | \\")]
    assert to_markdown(rows).splitlines()[2:] == [
        "| scratch (best) | 162,419,712 | 1.840 | 6.141 | 464.6 | 2.161 |  | measured |",
        "| GPT-2 XL \\| \\\\ |  |  |  |  |  | 3.1195 | unavailable |",
    ]


def test_a_large_perplexity_has_no_decimals() -> None:
    large = VAL.model_copy(update={"perplexity": 55882.4})
    (row,) = to_markdown([replace(ROWS[0], val=large)]).splitlines()[2:]
    assert "| 55,882 |" in row


@pytest.fixture
def add(monkeypatch: pytest.MonkeyPatch) -> Callable[[Column], None]:
    """Adds a column before the last."""

    def add(column: Column) -> None:
        *most, last = columns.COLUMNS
        monkeypatch.setattr(columns, "COLUMNS", [*most, column, last])

    return add


def test_a_new_column_is_one_entry(add: Callable[[Column], None]) -> None:
    add(
        Column(
            "val_windows",
            "windows & more",
            of_losses("val", "windows"),
            "no. {}".format,
            metric=True,
        )
    )
    first, second = csv.DictReader(io.StringIO(to_csv(ROWS)))
    assert (first["val_windows"], second["val_windows"]) == ("3", "")
    heading, _, *rows = to_markdown(ROWS).splitlines()
    assert heading.endswith("| published | windows & more | status |")
    assert [row.split(" | ")[-2] for row in rows] == ["no. 3", ""]

    html = render_html(ComparisonPage(subject="s", verdict="v", rows=ROWS))
    assert '<th scope="col" role="columnheader">windows &amp; more</th>' in html
    assert '<td role="cell" data-label="windows &amp; more">no. 3</td>' in html
    assert 'class="why" role="cell" colspan="6">unavailable</td>' in html

    both = SplitLosses(train=TRAIN, val=VAL)
    ours = EvaluationReport(
        corpus_sha256="5", context_length=8, train=TRAIN, val=VAL, best=both, untrained=both
    )
    models = {"best": ROWS[0], "xl": ROWS[1]}
    comparison = Comparison(models, ours, Training.model_construct())
    report = comparison_report(comparison, "v").model_dump(mode="json")
    assert [row["val_windows"] for row in report["rows"]] == [3, None]
    assert report["models"] == metrics(comparison)
    assert report["models"]["best"]["val_windows"] == 3


def test_a_new_published_column_is_shown_where_it_has_a_value(
    add: Callable[[Column], None],
) -> None:
    page = ComparisonPage(subject="s", verdict="v", rows=ROWS)
    add(Column("nothing", "nothing", lambda model: None, kind="published"))
    assert "nothing" not in render_html(page)
    add(Column("thrice", "thrice", lambda model: model.published_val_loss, kind="published"))
    html = render_html(page)
    assert '<td role="cell" data-label="thrice">3.1195</td>' in html
    assert html.count("not published") == 2
