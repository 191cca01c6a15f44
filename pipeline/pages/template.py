"""Pages that stand alone, made from Jinja templates: no script, no network, no other file.

Everything that is not ours (what models wrote, names, reasons, params) is escaped by Jinja, and a
page's own policy forbids scripts and requests besides.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from pipeline.pages import shading

if TYPE_CHECKING:
    from jinja2 import Template


@lru_cache
def template(package: str, name: str) -> Template:
    """The template `name` in the folder `templates` of `package`, which may include this one's."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("pipeline.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "running": shading.running,
        "flowing": shading.flowing,
        "visible": shading.visible,
        "unbroken": unbroken,
        "in_a_word": in_a_word,
    }
    return environment.get_template(name)


def in_a_word(status: str) -> str:
    """`unavailable: no network` -> `unavailable`; a note tells the reason once for all rows."""
    return status.partition(":")[0]


def unbroken(text: str) -> Markup:
    """Escaped text in which no line ends within `GPT-2 XL`."""
    whole = r'<span class="unbroken">\g<0></span>'
    return Markup(
        re.sub(r"GPT-2( small| medium| large| XL)?( \(\d+M\))?", whole, str(escape(text)))
    )
