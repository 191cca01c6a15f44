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
