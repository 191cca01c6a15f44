"""A run's note is Markdown, and an error in it is text."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.system.text import running
from pipeline.tracking import run as runs
from pipeline.tracking.journal import read_run
from pipeline.tracking.tags import DESCRIPTION
from tests.helpers.texts import HOSTILE
from tests.system.test_markdown import rendered


def test_an_error_in_a_note_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "_begun", [])  # as in a process of its own
    environment = {"DVC_STAGE": "prepare", "DVC_EXP_NAME": "e", "LOSSBOOK_OFFLINE": "1"}
    for variable, value in {**environment, "DVC_ROOT": str(tmp_path)}.items():
        monkeypatch.setenv(variable, value)
    message = " ".join(HOSTILE[:10])
    runs.record_failure(ValueError(message))
    (folder,) = (path.parent for path in tmp_path.rglob("journal.jsonl"))
    state = read_run(folder)
    assert state is not None
    note = rendered(state.tags[DESCRIPTION])
    assert note.elements == ["p"]
    assert note.text.strip().endswith(running(message))
