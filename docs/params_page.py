"""Write the tables of `params.md` from the fields of `pipeline/params.py`.

    python -m docs.params_page

Type, bounds, choices, default and description all come from the schema; the prose around the
tables is the page's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.params import Params

PAGE = Path(__file__).with_name("params.md")
BEGIN = "<!-- from here on made by `make docs`, from pipeline/params.py -->\n"
END = "<!-- up to here -->\n"
BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

Schema = dict[str, Any]


def updated(page: str) -> str:
    """The page with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    schema = Params.model_json_schema()
    return f"{before}{BEGIN}\n{''.join(tables(schema, schema['$defs']))}{END}{after}"


def tables(section: Schema, sections: dict[str, Schema], path: str = "") -> list[str]:
    """The table of the section's own settings, then those of the sections within it."""
    own, inner = [], []
    for name, field in section["properties"].items():
        key = f"{path}.{name}" if path else name
        if "$ref" in field:
            inner += tables(sections[field["$ref"].rpartition("/")[2]], sections, key)
        else:
            cells = (f"`{key}`", default(field["default"]), accepted(field), field["description"])
            own.append(f"| {' | '.join(cells)} |\n")
    heading = [f"## {path}\n\n{section['description']}\n\n"] if path else []
    head = ["| key | default | accepts | meaning |\n", "| --- | --- | --- | --- |\n"]
    return [*heading, *head, *own, "\n", *inner]


def default(value: Any) -> str:
    """A value as `params.yaml` spells it."""
    if isinstance(value, list):
        return f"`[{', '.join(map(spelt, value))}]`"
    return f"`{spelt(value)}`"


def spelt(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def accepted(field: Schema) -> str:
    """The type, the bounds and the choices of a setting, in words."""
    if branches := field.get("anyOf") or field.get("oneOf"):
        return ", or ".join(map(accepted, branches))
    if choices := field.get("enum") or ([field["const"]] if "const" in field else []):
        return ", ".join(f"`{choice}`" for choice in choices)
    if parts := field.get("prefixItems"):
        return f"list of {len(parts)} times {accepted(parts[0])}"
    if field["type"] == "array":
        kind = "non-empty list" if field.get("minItems") else "list"
        most = f"at most {field['maxItems']:,} times " if "maxItems" in field else ""
        return f"{kind} of {most}{accepted(field['items'])}"
    if "pattern" in field:
        return f"text like `{field['pattern']}`".replace("|", r"\|")
    word = {"boolean": "true, false", "string": "text"}.get(field["type"], field["type"])
    bounds = [f"{sign} {bound(field[key])}" for key, sign in BOUNDS.items() if key in field]
    return f"{word} {' and '.join(bounds)}".rstrip()


def bound(number: float) -> str:
    return "2^63" if number == 2**63 else f"{number:,.15g}"


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
