"""The user's cache: what is fetched once and kept outside any repository."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """`LOSSBOOK_CACHE`, or the platform's cache folder for this user (it may not exist yet)."""
    chosen = os.environ.get("LOSSBOOK_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("lossbook", appauthor=False)
