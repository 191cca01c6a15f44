"""Plain lines where there is no terminal."""

from __future__ import annotations

import pytest

from pipeline.system import progress
from pipeline.system.progress import Progress


def test_lines_say_how_far_and_how_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 20.0, 30.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with Progress(4, "train", unit="step") as bar:
        bar.advance(1, loss="6.1")
        bar.advance(1)  # too soon after the last line
        bar.advance(2, loss="5.9")
    assert capsys.readouterr().err.splitlines() == [
        "train: 1/4 steps, loss 6.1, 0:20 gone, 1:00 left",
        "train: 4/4 steps, loss 5.9, 0:40 gone, 0:00 left",
    ]


def test_a_total_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 3700.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with Progress(None, "fetch", unit="book") as bar:
        bar.advance(1200)
    assert capsys.readouterr().err == "fetch: 1,200 books, 1:01:40 gone\n"


def test_the_speed_and_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 20.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    with Progress(100_000_000, "prepare", unit="byte", speed=True) as bar:
        bar.advance(40_000_000)
    line = "prepare: 40,000,000/100,000,000 bytes, speed 2.0 M bytes/s, 0:20 gone, 0:30 left\n"
    assert capsys.readouterr().err == line
