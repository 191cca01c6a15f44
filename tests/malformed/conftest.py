"""Repositories for malformed input, and a process that runs commands in them at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import zygote
from tests.helpers.arena import COMMANDS, PARAMS, STORY, Arena


@pytest.fixture(scope="session")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    arena = Arena(
        tmp_path_factory.mktemp("malformed"), *zygote.COMMON, *zygote.STAGES, *zygote.MLFLOW
    )
    yield arena
    arena.close()


@pytest.fixture(scope="session")
def finished(arena: Arena, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `repo`, where every stage has run on a tiny model, and `cache`."""
    place = tmp_path_factory.mktemp("finished")
    repo = place / "repo"
    (repo / ".dvc").mkdir(parents=True)
    gpt2 = {**PARAMS["gpt2"], "source": str(repo / "gpt2")}  # copies find what was recorded
    (repo / "params.yaml").write_text(json.dumps({**PARAMS, "gpt2": gpt2}, indent=1))
    (repo / "story.txt").write_text(STORY.read_text()[:4000])
    runner = arena._all[0]

    def run(*argv: str) -> None:
        ended = runner.run(
            argv,
            repo,
            place.with_suffix(".log"),
            environment={"LOSSBOOK_CACHE": str(place / "cache"), "LOSSBOOK_OFFLINE": "1"},
            seconds=120,
            memory=8 * zygote.GIB,
        )
        assert ended.status == 0, (argv, ended)

    run("tests.malformed.programs:write_gpt2", "gpt2/124M")
    (repo / "reports/gpt2").mkdir(parents=True)
    for name, command in COMMANDS.items():
        if name != "check":
            run(*command)
    run("tests.malformed.programs:write_store")
    return place


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `repo`, where nothing has run yet."""
    place = tmp_path_factory.mktemp("plain")
    repo = place / "repo"
    (repo / ".dvc").mkdir(parents=True)
    (repo / PARAMS["gpt2"]["source"]).mkdir()
    (repo / "params.yaml").write_text(json.dumps(PARAMS, indent=1))
    (repo / "story.txt").write_text(STORY.read_text()[:4000])
    return place
