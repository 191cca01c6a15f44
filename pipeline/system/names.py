"""Names that come from files, before they become a part of a path."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import StringConstraints

from pipeline.errors import UserError
from pipeline.system.text import quoted

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]


def checked_name(name: object, where: str) -> str:
    """The name, which is one part of a path and leads nowhere else.

    Raises:
        UserError: it has a `/`, begins with a dot, is no text, or is longer than 128 characters;
            `where` is the file that it stands in.
    """
    if isinstance(name, str) and re.fullmatch(NAME, name):
        return name
    raise UserError(
        f"{where}: {quoted(name)} is not a name of letters, digits, '.', '_' and '-' that begins "
        "with a letter or a digit"
    )
