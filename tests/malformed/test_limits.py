"""Disks that are full, closed or something else, and a system that gives no more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.arena import COMMANDS, Arena, Case
from tests.helpers.zygote import may_mount

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

MIB = 1 << 20
GENERATE = ("lossbook", "generate", "--max-new-tokens", "2", "The")
EXPORT = ("lossbook", "export", "exported")
ALL = {
    **{k: v for k, v in COMMANDS.items() if k != "check"},
    "generate": GENERATE,
    "export": EXPORT,
    "sync": ("lossbook", "sync"),
    "reap": ("lossbook", "reap"),
    "runs": ("lossbook", "runs"),
}
PLACES = {
    "identify": ("reports", "reports/identity.json"),
    "prepare": ("data", "data/corpus", "reports/corpus.json"),
    "split": ("data/tokens", "reports/split.json"),
    "train": (
        "models/scratch",
        "reports/history.csv",
        ".lossbook",
        ".lossbook/state",
        "journals/train",
        "reports/loss.png",
        "reports/train_run.json",
    ),
    "evaluate": ("reports/evaluate.json", "journals/evaluate", "reports/token_losses"),
    "sample": ("reports/samples.json", "journals/sample", "reports/samples_grid.png"),
    "fetch_gpt2": ("reports/gpt2/124M.json", "../cache/gpt2"),
    "baseline": ("reports/baselines/124M.json", "journals/baseline"),
    "compare": (
        "reports/comparison.html",
        "reports/comparison.png",
        "journals/compare",
        "reports/comparison.csv",
    ),
    "export": ("exported",),
    "sync": (".lossbook", ".lossbook/journals", "mlflow.db", "mlartifacts"),
}
OUTPUTS = ("data", "models", "reports", "journals")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)


def _put(place: str, what: str) -> Callable[[Path], None]:
    def change(repo: Path) -> None:
        path = repo / place
        was_folder = path.is_dir() or not path.suffix
        _remove(path)
        if what == "the other kind":
            if was_folder:
                path.write_text("a file\n")
            else:
                path.mkdir()
        elif what == "a broken link":
            path.symlink_to("nowhere/at/all")
        elif what == "a link to itself":
            path.symlink_to(path.name)
        elif what == "a fifo":
            os.mkfifo(path)

    return change


def cases() -> Iterator[Case]:
    for stage, argv in ALL.items():
        for size in (0, 1, 1000, 100_000, MIB):
            if stage in ("runs",) and size:
                continue
            yield Case(
                f"{stage}: files of {size} bytes",
                argv,
                limits={"RLIMIT_FSIZE": size},
                replaces=OUTPUTS,
            )
        for count in (14, 20, 30):  # with fewer no folder can be emptied
            yield Case(
                f"{stage}: {count} open files",
                argv,
                limits={"RLIMIT_NOFILE": count},
                replaces=OUTPUTS,
            )
    for stage, places in PLACES.items():
        for place in places:
            for what in ("the other kind", "a broken link", "a link to itself", "a fifo"):
                yield Case(
                    f"{stage}: {place} is {what}", ALL[stage], _put(place, what), replaces=OUTPUTS
                )


MOUNTED = {
    "identify": ("reports",),
    "prepare": ("data", "reports", "."),
    "split": ("data", "reports"),
    "train": ("models", "reports", "journals", ".lossbook", "."),
    "evaluate": ("reports", "journals", ".lossbook"),
    "sample": ("reports", "journals", "."),
    "fetch_gpt2": ("reports", "../cache", "../home"),
    "baseline": ("reports", "journals"),
    "compare": ("reports", "journals", ".lossbook"),
    "generate": (".", "../cache", "../home"),
    "export": (".",),
    "runs": (".",),
    "sync": (".", ".lossbook"),
    "reap": (".",),
}


def mounted() -> Iterator[Case]:
    """Disks that are small, or only to be read."""
    for stage, places in MOUNTED.items():
        for place in places:
            for one in ("ro",) if place == "." else ("ro", "16k", "256k"):
                yield Case(
                    f"{stage}: {place} is mounted {one}",
                    ALL[stage],
                    mounts={place: one},
                    replaces=OUTPUTS,
                )


def test_limits(arena: Arena, finished: Path) -> None:
    arena.check("limits", cases(), finished)


@pytest.mark.skipif(not may_mount(), reason="mounting needs root on Linux")
def test_disks(arena: Arena, finished: Path) -> None:
    arena.check("disks", mounted(), finished)
