"""The user's cache: what is fetched once and kept outside any repository."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from pipeline.system.files import given_path


def cache_folder() -> Path:
    """`LOSSBOOK_CACHE`, or the platform's cache folder for this user (it may not exist yet).

    Raises:
        UserError: `LOSSBOOK_CACHE` can be no path.
    """
    chosen = os.environ.get("LOSSBOOK_CACHE")
    return (
        given_path(chosen, "LOSSBOOK_CACHE")
        if chosen
        else user_cache_path("lossbook", appauthor=False)
    )
