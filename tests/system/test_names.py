"""A name from a file leads nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import UserError
from pipeline.system.names import Name, checked_name

WRONG = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "/etc",
    ".hidden",
    "a\n",
    "a\x00",
    "é",
    "x" * 129,
    "a b",
    None,
    3,
]


@pytest.mark.parametrize("name", WRONG, ids=repr)
def test_refused(name: object) -> None:
    with pytest.raises(UserError, match=r"j\.jsonl"):
        checked_name(name, "j.jsonl")
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(name)


@pytest.mark.parametrize("name", ["train", "a1b2", "baseline-1.5B_x", "x" * 128])
def test_taken(name: str) -> None:
    assert checked_name(name, "j.jsonl") == name
    assert TypeAdapter(Name).validate_python(name) == name


@given(st.text())
def test_what_is_taken_stays_in_its_folder(name: str) -> None:
    try:
        checked = checked_name(name, "f")
    except UserError:
        return
    assert (Path("/a/b") / checked).resolve().parent == Path("/a/b")
