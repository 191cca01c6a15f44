from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.tracking import paths


@pytest.mark.parametrize(
    ("shared", "local", "place"),
    [
        (None, None, ".dvc/cache"),
        ("", None, ".dvc/cache"),
        ("[cache]\n    dir = ../shared\n    type = hardlink\n", None, ".dvc/../shared"),
        ("[cache]\n    dir = a\n", "[cache]\n    dir = b\n", ".dvc/b"),
        ("['remote \"x\"']\n    url = s3://x\n[core]\n    remote = x\n", None, ".dvc/cache"),
        ("not a configuration", None, ".dvc/cache"),
    ],
)
def test_where_dvc_keeps_files(
    bare_repo: Path, shared: str | None, local: str | None, place: str
) -> None:
    for name, text in (("config", shared), ("config.local", local)):
        if text is not None:
            (bare_repo / ".dvc" / name).write_text(text)
    assert paths.dvc_cached("abcdef") == bare_repo / place / "files" / "md5" / "ab" / "cdef"


def test_an_absolute_cache_is_itself(bare_repo: Path) -> None:
    (bare_repo / ".dvc" / "config").write_text("[cache]\n    dir = /big/cache\n")
    assert paths.dvc_cached("abcdef") == Path("/big/cache/files/md5/ab/cdef")


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("a b", True),
        ("a&b;c%zz", True),
        ("a#b", False),
        ("a?b", False),
        ("é", False),
        ("%20", False),
    ],
)
def test_where_dvc_cannot_run_a_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fits: bool
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / name))
    problem = paths.queue_problem()
    assert (problem is None) == fits
    assert problem is None or "\n" not in problem


def test_a_stores_name_has_no_password() -> None:
    asked = "postgresql://me:secret@h:1/db?sslmode=require&password=secret"
    assert paths.store_name(asked) == "postgresql://h:1/db?sslmode=require"
    assert paths.store_name("http://[secret") == "MLFLOW_TRACKING_URI"
