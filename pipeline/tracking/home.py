"""Where the records of a repository are kept.

Everything hangs on the main repository, also in the temporary workspaces where `dvc exp run`
works: DVC names it in `DVC_ROOT`. What a workspace writes elsewhere is deleted with it.

    mlflow.db, mlartifacts/           MLflow's store, unless MLFLOW_TRACKING_URI names another
    .lossbook/state/STAGE-*/          runs at work, and runs that a kill left to be continued
    .lossbook/journals/STAGE-KEY/     the journals of ended runs: the book itself
"""

from __future__ import annotations

import os
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from pathlib import Path


def root() -> Path:
    """The main repository: `DVC_ROOT`, else the nearest folder above with `.dvc` or `.git`.

    Where there is neither, the working folder.
    """
    if given := os.environ.get("DVC_ROOT"):
        return Path(given).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / ".dvc").is_dir() or (folder / ".git").exists():
            return folder
    return here


def state_folder(stage: str, fingerprint: str) -> Path:
    """Where a stage keeps what it needs to go on after a kill, for these inputs and no others.

    The folder is for the stage's own files too (checkpoints): `start_run` removes it whole when
    the run has ended well.
    """
    return states() / f"{stage}-{fingerprint}"


def dvc_cached(md5: str) -> Path:
    """Where DVC's cache keeps a file with this hash, if it does."""
    return _dvc_cache() / "files" / "md5" / md5[:2] / md5[2:]


def _dvc_cache() -> Path:
    """`cache.dir` of the repository's DVC configuration, relative to `.dvc`; by default `cache`."""
    folder = root() / ".dvc"
    config = ConfigParser(strict=False, interpolation=None)
    with suppress(ConfigError):
        config.read([folder / "config", folder / "config.local"], encoding="utf-8")
    return folder / config.get("cache", "dir", fallback="cache")


def states() -> Path:
    return root() / ".lossbook" / "state"


def journals() -> Path:
    return root() / ".lossbook" / "journals"
