"""A fingerprint changes with values, data and code, and with nothing else."""

from __future__ import annotations

from pathlib import Path

from pipeline.training.fingerprint import ROOT, code_of, fingerprint


def test_depends_on_values_and_contents_only(tmp_path: Path) -> None:
    data, code = tmp_path / "meta.json", tmp_path / "loop.py"
    data.write_text("1")
    code.write_text("2")
    first = fingerprint({"a": 1, "b": 2}, [data], [code])
    assert fingerprint({"b": 2, "a": 1}, [data], [code]) == first
    assert fingerprint({"a": 1, "b": 3}, [data], [code]) != first
    code.write_text("3")
    assert fingerprint({"a": 1, "b": 2}, [data], [code]) != first
    code.write_text("2")
    data.write_text("2")
    assert fingerprint({"a": 1, "b": 2}, [data], [code]) != first


def test_the_code_of_a_stage_is_what_dvc_yaml_says() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in code_of("train")}
    assert {"pipeline/training/loop.py", "pipeline/model/gpt.py"} <= names
    assert not any(name.startswith(("pipeline/tracking", "pipeline/system")) for name in names)
