"""The comparison as CSV and Markdown."""

from __future__ import annotations

import csv
import io

from pipeline.comparison.columns import COLUMNS, to_csv, to_markdown

ROWS = [
    {
        "model": "scratch (best)",
        "parameters": 162419712,
        "train_loss": 1.8400001,
        "val_loss": 6.141234567890123,
        "val_perplexity": 464.62,
        "val_bits_per_byte": 2.161,
        "published_val_loss": None,
        "status": "measured",
    },
    dict.fromkeys(COLUMNS)
    | {
        "model": "GPT-2 XL (1558M)",
        "published_val_loss": 3.1195,
        "status": 'unavailable: "a, b" | c\\',
    },
]


def test_csv_keeps_every_digit_and_any_words() -> None:
    text = to_csv(ROWS)
    assert text.splitlines()[0] == (
        "model,parameters,train_loss,val_loss,val_perplexity,val_bits_per_byte,"
        "published_val_loss,status"
    )
    first, second = csv.DictReader(io.StringIO(text))
    assert float(first["val_loss"]) == ROWS[0]["val_loss"]
    assert first["parameters"] == "162419712"
    assert second["val_loss"] == ""
    assert second["status"] == ROWS[1]["status"]
    assert "\r" not in text


def test_markdown_rounds_and_escapes() -> None:
    rows = [ROWS[0], ROWS[1] | {"model": "GPT-2 XL | \\"}]
    assert to_markdown(rows).splitlines()[2:] == [
        "| scratch (best) | 162,419,712 | 1.840 | 6.141 | 464.6 | 2.161 |  | measured |",
        "| GPT-2 XL \\| \\\\ |  |  |  |  |  | 3.1195 | unavailable |",
    ]


def test_a_large_perplexity_has_no_decimals() -> None:
    (row,) = to_markdown([ROWS[0] | {"val_perplexity": 55882.4}]).splitlines()[2:]
    assert "| 55,882 |" in row
