"""Where the records of a repository are kept, and the address of its MLflow store.

Everything hangs on the main repository, also in the temporary workspaces where `dvc exp run`
works: DVC names it in `DVC_ROOT`. What a workspace writes elsewhere is deleted with it.

    mlflow.db, mlartifacts/           MLflow's store, unless MLFLOW_TRACKING_URI names another
    .lossbook/state/STAGE-*/          runs at work, and runs that a kill left to be continued
    .lossbook/journals/STAGE-KEY/     the journals of ended runs, from which a store can be rebuilt
"""

from __future__ import annotations

import os
import re
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline.system.text import quoted

NO_ADDRESS = "MLFLOW_TRACKING_URI"  # the name of a store whose address is none


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


def queue_problem() -> str | None:
    """Why DVC cannot run experiments here from a queue or with --temp; None where it can.

    It pushes their commits to a URL made from the repository's path, and quotes nothing in it.
    """
    found = re.search(r"[#?]|%[0-9A-Fa-f]{2}|[^\x00-\x7f]", str(root()))
    if found is None:
        return None
    return (
        f"DVC runs no queued experiments in a folder whose path has {quoted(found[0])}: "
        '`dvc exp run --queue` and `--temp` will fail with "No output logs found"; '
        f"move the repository from {quoted(str(root()))} to run them"
    )


def state_folder(stage: str, fingerprint: str) -> Path:
    """Where a stage keeps what it needs to go on after a kill, for these inputs and no others.

    A run works there, or beside it where another workspace is at work (`Run.folder`). The folder is
    for the stage's own files too (checkpoints): `start_run` removes it whole when the run has ended
    well.
    """
    return states() / f"{stage}-{fingerprint}"


def states() -> Path:
    return root() / ".lossbook" / "state"


def journals() -> Path:
    return root() / ".lossbook" / "journals"


def dvc_cached(md5: str) -> Path:
    """Where DVC's cache keeps a file with this hash, if it does."""
    return dvc_cache() / "files" / "md5" / md5[:2] / md5[2:]


def dvc_cache() -> Path:
    """`cache.dir` of the repository's DVC configuration, relative to `.dvc`; by default `cache`."""
    folder = root() / ".dvc"
    config = ConfigParser(strict=False, interpolation=None)
    with suppress(ConfigError):
        config.read([folder / "config", folder / "config.local"], encoding="utf-8")
    return folder / config.get("cache", "dir", fallback="cache")


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, else the main repository's database; SQLite paths made absolute."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    path = sqlite_path(given or "sqlite:///mlflow.db")
    return given if path is None else f"sqlite:///{path}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of an SQLite URI; a relative one is the main repository's."""
    if not uri.startswith("sqlite:///"):
        return None
    return root() / uri.removeprefix("sqlite:///").partition("?")[0]


def is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def store_name(uri: str) -> str:
    """The store's address without user and password, for cursors and messages.

    It is short for the default store, and `MLFLOW_TRACKING_URI` where that holds no address.
    """
    path = sqlite_path(uri)
    if path == root() / "mlflow.db":
        return "mlflow.db"  # stays true when the repository moves
    try:
        parts = urlsplit(uri)
    except ValueError:
        return NO_ADDRESS
    options = parts.query.split("&")
    query = "&".join(option for option in options if "password" not in option.lower())
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query).geturl()


def artifact_root() -> Path:
    """Where runs of a database of this machine keep their artifacts."""
    return root() / "mlartifacts"


def local_folder(location: str) -> Path | None:
    """The folder that a `file://` location names; None for a server's or a bucket's."""
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme == "file" else None
