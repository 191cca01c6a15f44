"""A fingerprint changes with values, data and code, and with nothing else."""

from __future__ import annotations

from pathlib import Path

from pipeline.training.fingerprint import fingerprint


def test_depends_on_values_and_contents_only(tmp_path: Path) -> None:
    data = tmp_path / "meta.json"
    data.write_text("1")
    first = fingerprint({"a": 1, "b": 2}, [data], ["model/*.py"])
    assert fingerprint({"b": 2, "a": 1}, [data], ["model/*.py"]) == first
    assert fingerprint({"a": 1, "b": 3}, [data], ["model/*.py"]) != first
    assert fingerprint({"a": 1, "b": 2}, [data], ["data/*.py"]) != first
    data.write_text("2")
    assert fingerprint({"a": 1, "b": 2}, [data], ["model/*.py"]) != first
