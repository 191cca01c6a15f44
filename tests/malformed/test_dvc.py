"""params.yaml as DVC meets it: checked first, then run, in a real repository."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.arena import OUTPUTS, Arena, Case
from tests.helpers.repository import Repository
from tests.malformed.test_params import WORST

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

VALUES = {
    "gpt2.sizes": ('["124M; touch X #"]', '["$(touch X)"]', "null", "124M", "[../x]",
        '["124M\\ntouch X"]', "[]", "[[124M]]", "[{a: b}]", '["124M && touch X"]'),
    "gpt2.source": ("'$(touch X)'", "'`touch X`'", "'; touch X #'"),
    "tracking.experiment": ("'; touch X #'", "'$(touch X)'", "'${seed}'", "'a\\nb'", "''"),
    "prepare.corpus": ("'; touch X #'", "'$(touch X)'", "'${train}'", "'../story.txt'"),
    "train.init_from": ("'$(touch X)'", "'${nosuch}'"),
    "sample.prompts": ("['$HOME', '${seed}', '%(x)s']", "[]", "['{{x}}']"),
    "seed": ("${train}", "123", "-1"),
}  # fmt: skip
FILES = (
    "sizes with a command",
    "nested anchors",
    "interpolation",
    "merge",
    "twice",
    "several documents",
    "key of a list",
    "python tag",
    "octal",
    "long number",
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    folder = tmp_path_factory.mktemp("dvc") / "repo"
    folder.mkdir()
    repository = Repository(folder)
    (folder / "params.yaml").chmod(0o644)
    return repository


def cases(repository: Repository) -> Iterator[Case]:
    argv = ("tests.malformed.programs:check_and_repro",)
    text = (repository.folder / "params.yaml").read_text()
    for key, values in VALUES.items():
        for index, value in enumerate(values):

            def change(repo: Path, key: str = key, value: str = value) -> None:
                if "." not in key:
                    changed = text.replace("seed: 123\n", f"seed: {value}\n", 1)
                    (repo / "params.yaml").write_text(changed)
                    return
                import re

                section, name = key.split(".")
                line = rf"(?m)(^{section}:.*\n(?:  .*\n)*?  {name}:).*$((?:\n    - .*)*)"
                changed, count = re.subn(line, lambda found: f"{found[1]} {value}", text, count=1)
                assert count == 1, key
                (repo / "params.yaml").write_text(changed)

            yield Case(f"{key} {index} {value[:40]}", argv, change, seconds=90, replaces=OUTPUTS)
    for name in FILES:
        yield Case(
            f"file: {name}",
            argv,
            lambda repo, name=name: (repo / "params.yaml").write_text(WORST[name]),
            seconds=90,
            replaces=OUTPUTS,
        )


def test_check_then_repro(arena: Arena, repository: Repository) -> None:
    arena.check("dvc", cases(repository), repository.folder.parent)
