"""README's way, command by command as printed, in a fresh clone with a tiny model."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

from tests.helpers.commands_in_docs import PAGES, ROOT, blocks
from tests.helpers.repository import TINY, Repository, outside

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
README = PAGES[0]


class Clone(Repository):
    """What `git clone` gives, with tiny params; its `.venv` is the environment that there is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder.parent / "gpt2").mkdir()  # where TINY looks for weights, and there are none
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).exists():
                shutil.copy(ROOT / name, target)
        story = (ROOT / "pipeline/corpus/texts/what-seemed-likely.txt").read_text()
        (folder / "story.txt").write_text(story[:2500])
        for key, value in TINY.items():
            self.set(key, value)
        self.link_environment()
        self.run("git", "init", "--quiet")
        self.run("git", "config", "user.email", "tests@example.org")
        self.run("git", "config", "user.name", "tests")
        self.commit()

    def link_environment(self) -> None:
        venv = self.folder / ".venv"
        venv.mkdir()
        for path in Path(sys.prefix).iterdir():
            if path.name != ".installed":
                (venv / path.name).symlink_to(path)
        (venv / ".installed").touch()  # newer than requirements.lock: make has nothing to install

    def shell(self, line: str) -> str:
        """A line of README in bash; what it says."""
        done = self.run("bash", "-ec", f"export PYTHONPATH=$PWD\n{line}")
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    folder = tmp_path_factory.mktemp("readme") / "lossbook"
    folder.mkdir()
    return Clone(folder)


def block_with(words: str) -> str:
    (block,) = [block for block in blocks(README) if words in block]
    return block.replace("\\\n", " ")


def test_the_two_commands(clone: Clone) -> None:
    first, second = block_with("make repro").splitlines()
    said = clone.shell(first)
    assert "Running stage 'compare'" in said
    assert "from scratch reach" in (clone.folder / "reports/comparison.html").read_text()

    process = subprocess.Popen(
        ["bash", "-ec", f"exec {second}"],
        cwd=clone.folder,
        env={**outside(), "PYTHONPATH": str(clone.folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        told = [process.stdout.readline() for _ in range(3)]  # make says what it runs
        url = next(re.search(r"MLflow: (\S+)", line) for line in told if "MLflow:" in line)
        assert url is not None
        assert requests.get(f"{url[1]}/health", timeout=60).text == "OK"
        assert any("trainings: http" in line for line in told)
    finally:
        process.terminate()
        process.wait()


def test_each_thing_to_try(clone: Clone) -> None:
    lines = block_with("sample.temperature=0.8").splitlines()
    ran = {}
    for line in lines:
        said = clone.shell(line)
        if line.startswith("dvc exp run"):
            ran[line.split()[4]] = re.findall(r"Running stage '(\w+)'", said)
    watching = {"identify", "fetch_gpt2"}
    assert set(ran["sample.temperature=0.8"]) - watching == {"sample"}
    trains = {"train", "evaluate", "sample", "compare"}
    assert set(ran["train.epochs=5"]) - watching == trains
    assert clone.run("git", "status", "--porcelain", "params.yaml").stdout == ""


def test_the_sweep_of_three_values_and_two_seeds(clone: Clone) -> None:
    queue, start, status, read = block_with("dvc queue start").splitlines()
    clone.shell(queue)
    clone.shell(start)
    for _ in range(1200):
        shown = clone.shell(status)
        if "Queued" not in shown and "Running" not in shown:
            break
        time.sleep(0.5)
    assert shown.count("Success") == 6, shown
    said = clone.shell(read)
    assert "of 3 settings" in said
    found = json.loads(clone.shell(f"{read.partition('#')[0]} --json --no-log"))
    assert [len(setting["runs"]) for setting in found["settings"]] == [2, 2, 2]


@pytest.mark.parametrize(
    "command",
    [
        "make exps",
        "dvc metrics diff",
        "lossbook runs",
        "lossbook verify",
        'lossbook generate "The sea"',
    ],
)
def test_what_one_reads_with(clone: Clone, command: str) -> None:
    assert f"`{command}`" in README.read_text()
    assert clone.shell(command).strip()


def test_the_model_is_exported(clone: Clone) -> None:
    clone.shell("lossbook export FOLDER")
    assert (clone.folder / "FOLDER" / "config.json").exists()


def test_a_search_goes_on_where_it_stopped(clone: Clone) -> None:
    """docs/search.md's script, a trial at a time."""
    for number in (0, 1):
        said = clone.shell("python docs/search.py --trials 1")
        assert f"Trial {number} finished" in said
    assert re.search(r"to take it: dvc exp apply search-[01]", said)
    names = clone.run("git", "for-each-ref", "refs/exps").stdout
    assert "search-0" in names
    assert "search-1" in names
