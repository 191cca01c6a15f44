"""Real DVC on params.yaml as it should not be: `make repro`'s way ends before DVC stumbles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.hostile_yaml import ACCEPTED, REFUSED
from tests.helpers.repository import Repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("hostile") / "lossbook"
    folder.mkdir()
    return Repository(folder)


def command() -> str:
    """What `make repro` runs."""
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    line = makefile.partition("\nrepro:")[2].splitlines()[1].strip()
    assert "dvc repro" in line
    return line


@pytest.mark.parametrize("name", REFUSED)
def test_dvc_never_sees_what_it_cannot_read(repository: Repository, name: str) -> None:
    content, part = REFUSED[name]
    path = repository.folder / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    done = repository.run("bash", "-c", f"ulimit -v 2000000; {command()}", check=False)
    assert done.returncode == 1
    assert part in done.stderr
    for word in ("unexpected error", "Traceback", "dvc"):
        assert word not in done.stdout + done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 500


@pytest.mark.parametrize(
    "sizes", ["124M; touch X #", "$(touch X)", "`touch X`", "'; touch X; '", {"x; touch X #": 1}]
)
def test_a_setting_is_no_command(repository: Repository, sizes: object) -> None:
    """Without `lossbook check` too."""
    path = repository.folder / "params.yaml"
    path.write_text(json.dumps({"gpt2": {"sizes": [sizes]}}))
    repository.run("dvc", "repro", "fetch_gpt2", "baseline", check=False)
    assert not (repository.folder / "X").exists()


@pytest.mark.parametrize("name", ACCEPTED)
def test_dvc_reads_what_we_read(repository: Repository, name: str) -> None:
    (repository.folder / "params.yaml").write_bytes(ACCEPTED[name].encode())
    done = repository.run("bash", "-c", "lossbook check && dvc stage list --name-only", check=False)
    assert done.returncode == 0, done.stderr
    assert "fetch_gpt2@1558M" in done.stdout
