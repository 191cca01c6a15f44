"""Checkpoints as OpenAI writes them, and a server that does everything wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.gpt2.network import Patience
from pipeline.gpt2.sizes import Hparams
from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.helpers.hostile import Hostile

Write = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, not to be changed."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), TINY)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a checkpoint of this test's own."""

    def write(hparams: Hparams = TINY, name: str = "checkpoint", **how: object) -> Path:
        return write_checkpoint(tmp_path / name, hparams, **how)  # type: ignore[arg-type]

    return write


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile.running() as server:
        yield server


class Waits(list[float]):
    """The waits that were asked for, none of which was waited."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def patience(waits: Waits) -> Patience:
    """Patient, but quick: waits take no time, and a third of a second of silence is a stall."""
    return Patience(connect=2.0, stall=0.3, sleep=waits, jitter=lambda: 0.5)
