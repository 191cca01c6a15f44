"""The user's cache: what is fetched once and kept outside any repository."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.errors import UserError
from pipeline.system.text import quoted


def cache_folder() -> Path:
    """`LOSSBOOK_CACHE`, or the platform's cache folder for this user (it may not exist yet).

    Raises:
        UserError: `LOSSBOOK_CACHE` begins with `~` and the name of no user.
    """
    chosen = os.environ.get("LOSSBOOK_CACHE")
    if not chosen:
        return user_cache_path("lossbook", appauthor=False)
    return expanded(chosen, "LOSSBOOK_CACHE")


def expanded(path: str, where: str) -> Path:
    """The path, `~` and `~USER` at its beginning replaced; `where` names it in errors.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{where}: {quoted(path)} begins with the name of no user") from None
