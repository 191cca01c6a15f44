"""Stages run in the tests' own process, and so do the senders of their runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest


@pytest.fixture(scope="module", autouse=True)
def senders_here() -> Iterator[None]:
    """Senders share this process, which imports MLflow once; those of programs have their own."""

    def sender(folder: Path) -> Thread:
        from pipeline.tracking.mlflow.sender import Sender

        return Sender(folder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.tracking.run.SenderProcess", sender)
        yield


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test looks at no store: runs are only journalled."""
    monkeypatch.setenv("LOSSBOOK_OFFLINE", "1")
