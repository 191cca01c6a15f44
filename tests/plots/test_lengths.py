"""The histograms of a corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.plots.lengths import length_histograms

CLASSES = [{"from": 1 << k, "below": 2 << k, "documents": k * k} for k in range(3, 25)]


@pytest.mark.parametrize("name", ["lengths.png", "lengths.svg"])
@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:1], []])
def test_draws_and_repeats_itself(tmp_path: Path, name: str, classes: list[dict[str, int]]) -> None:
    for folder in ("one", "two"):
        length_histograms({"characters": CLASSES, "tokens": classes}, tmp_path / folder / name)
    drawn = (tmp_path / "one" / name).read_bytes()
    assert drawn == (tmp_path / "two" / name).read_bytes()
    assert len(drawn) > 2000


def test_axes_say_what_they_count(tmp_path: Path) -> None:
    length_histograms({"characters": CLASSES}, tmp_path / "lengths.svg")
    text = (tmp_path / "lengths.svg").read_text()
    for word in ("characters in a document", "documents", ">8<", ">2k<", ">512k<"):
        assert word in text
