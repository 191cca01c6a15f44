"""A stage whose input is damaged in any shape: it works, or it ends in a line that names the file.

Every JSON file that a stage reads of another one, in a pipeline that has run.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.repository import Repository

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

REPORTS = Path("reports")
SCRATCH = Path("models/scratch")
READS = {
    "compare": [
        *(REPORTS / f"{name}.json" for name in ("corpus", "split", "train", "train_run")),
        *(REPORTS / f"{name}.json" for name in ("evaluate", "sampling_grid")),
        *(REPORTS / "baselines/124M.json", REPORTS / "token_losses/124M/meta.json"),
        REPORTS / "token_losses/scratch/meta.json",
    ],
    "baseline": [REPORTS / "gpt2/124M.json", Path("data/tokens/val/meta.json")],
    "evaluate": [
        *(REPORTS / "train_run.json", SCRATCH / "config.json", SCRATCH / "start.json"),
        Path("data/tokens/train/meta.json"),
    ],
    "sample": [
        *(REPORTS / "train_run.json", SCRATCH / "config.json"),
        Path("data/tokens/train/meta.json"),
    ],
    "split": [Path("data/corpus/_meta.json")],
    "train": [Path("data/tokens/val/meta.json")],
}
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -1e308, 0.5, float("nan")),
    *("", "x", "\ud800", "\0", "\x1b[2J", "x" * 10**5, "../x", "/"),
    *([], {}, [None], [[]], {"": None}, [1, 2, 3], ["a"], {"a": 1}),
]
RAW = [b"", b"{", b"null", b"\xff\xfe", b"[" * 10**5, b'{"a": ' + b"9" * 5000 + b"}"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    folder = tmp_path_factory.mktemp("damaged") / "lossbook"
    folder.mkdir()
    repository = Repository(folder)
    repository.repro()
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setenv("DVC_ROOT", str(folder))
    patch.setenv("LOSSBOOK_OFFLINE", "1")
    patch.setenv("LOSSBOOK_CACHE", str(folder.parent / "cache"))
    yield repository
    patch.undo()


def places(value: Any, key: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield key
    if isinstance(value, dict | list):
        for name, child in value.items() if isinstance(value, dict) else enumerate(value[:4]):
            yield from places(child, (*key, name))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([*RAW, content[: len(content) // 2]]))
    value = json.loads(content)
    *parents, last = draw(st.sampled_from([place for place in places(value) if place]))
    changed = copy.deepcopy(value)
    holder = changed
    for name in parents:
        holder = holder[name]
    if draw(st.booleans()):
        holder[last] = draw(st.sampled_from(JUNK))
    else:
        del holder[last]
    return json.dumps(changed).encode()


def command(stage: str) -> list[str]:
    """As dvc.yaml runs it, but for what it writes, which goes aside."""
    from ruamel.yaml import YAML

    words = YAML(typ="safe").load(Path("dvc.yaml").read_text())["stages"][stage]["cmd"].split()
    options = " ".join(words[3:]).replace("${item.size}", "124M").split()
    writes = {"--report", "--reports", "--metrics", "--journal", "--token-losses"}
    writes |= {"--tokens"} if stage == "split" else {"--model"} if stage == "train" else set()
    if stage == "compare":
        writes -= {"--token-losses"}
    pairs = zip(options[::2], options[1::2], strict=True)
    return [
        word
        for name, value in pairs
        for word in (name, f"aside/{value}" if name in writes else value)
    ]


CASES = [(stage, path) for stage, paths in READS.items() for path in paths]


@pytest.mark.parametrize(("stage", "path"), CASES, ids=str)
def test_a_damaged_input_is_a_line_or_none(repository: Repository, stage: str, path: Path) -> None:
    main = import_module(f"stages.{stage}").main
    content = path.read_bytes()

    def run() -> None:
        result = CliRunner().invoke(main, command(stage))
        error = result.exception
        if error is not None and not isinstance(error, SystemExit):
            raise error
        assert result.exit_code in (0, 1)
        if result.exit_code:
            *_, said = result.stderr.splitlines()
            assert said.startswith("Error: ")
            assert len(said) <= 500

    @settings(
        max_examples=int(os.environ.get("DAMAGES", "25")),
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(content))
    def damage(raw: bytes) -> None:
        write(path, raw)
        run()

    try:
        damage()
        path.unlink()
        run()
    finally:
        write(path, content)
        shutil.rmtree("aside", ignore_errors=True)


def write(path: Path, raw: bytes) -> None:
    """A file of its own: DVC's may be a link into its cache."""
    path.unlink(missing_ok=True)
    path.write_bytes(raw)
