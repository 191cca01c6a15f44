"""What is wrong with `params.yaml`, in the file's words: pydantic's problems, a line each."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.system.text import printable, quoted, shortened
from pipeline.system.yaml_file import MOST_LISTED, listed


def explain(path: Path, error: ValidationError, schema: type[BaseModel]) -> str:
    """How many problems `path` has, and the first of them, `section.key: what is wrong`."""
    lines: dict[str, None] = {}  # once each: the branches of a union say the same
    for problem in error.errors(include_url=False):
        key = _key(problem["loc"], schema)
        message = problem["msg"][:1].lower() + problem["msg"][1:]
        if problem["type"] == "extra_forbidden":
            message = "unknown key"
            if len(lines) < MOST_LISTED:
                message += _suggestion(problem["loc"], schema)
        elif not isinstance(problem["input"], dict):
            message += f", not {quoted(problem['input'])}"
        lines[f"{printable(shortened(key), keep='')}: {message}"] = None
    return listed(str(path), list(lines))


def _key(location: tuple[int | str, ...], schema: Any) -> str:
    """`("sample", "top_k", 2, "constrained-int")` -> `sample.top_k[2]`: union branches left out."""
    key = ""
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif schema is None:
            break  # the name of a union's branch, which is pydantic's word and not the file's
        else:
            key += f".{part}" if key else part
            field = getattr(schema, "model_fields", {}).get(part)
            schema = field.annotation if field and _is_section(field.annotation) else None
    return key


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _suggestion(location: tuple[int | str, ...], schema: Any) -> str:
    for part in location[:-1]:
        schema = schema.model_fields[part].annotation
    close = get_close_matches(shortened(str(location[-1]), 60), schema.model_fields, n=1)
    return f"; did you mean `{close[0]}`?" if close else ""
