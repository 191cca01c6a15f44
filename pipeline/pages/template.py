"""Pages that stand alone, made from Jinja templates: no script, no network, no other file.

Everything that is not ours (what models wrote, names, reasons, params) is escaped by Jinja, its
control characters are shown as `\\x1b`, and a page's own policy forbids scripts and requests
besides.
"""

from __future__ import annotations

from functools import lru_cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from pipeline.system.text import flowing, printable, running, visible


@lru_cache
def template(package: str, name: str) -> Template:
    """The template `name` in the folder `templates` of `package`, which may include this one's."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("pipeline.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"running": running, "flowing": flowing, "visible": visible}
    return environment.get_template(name)


def _shown(value: object) -> object:
    """What an expression of a template puts into the page; markup is ours."""
    return value if isinstance(value, Markup) else printable(str(value))
