"""Texts that could be taken for more than texts: mathematics, markup, commands."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

HOSTILE = (
    "Let $\\R^n$ be $5",
    "_hidden",
    "100% %s %(x)s {0}",
    "<script>document.title = 'mine'</script>",
    "</script></style></title>--><img src=x onerror=document.title=1>",
    '#ffffff #b3471d font-family: Arial id="x" href="#a" url(#b) xmlns="y"',
    "| a | b |\n| --- | --- |",
    "[l](javascript:alert(1)) ![i](x)",
    "# h\n===\n- a\n1. b",
    "`code` **b** _i_ ~~s~~ <!-- c --> &lt; :smile: @me",
    "水の音 नमस्ते مرحبا 😀",
    "\x1b[2J\x1b[31mred\x07\x9b1m\u202eturned\r",
    "{{ 7 * 7 }}{% raw %}",
    "endless" * 60,
)


def texts_of(svg: Path) -> list[str]:
    """What a drawing says, text by text."""
    root = ElementTree.fromstring(svg.read_text(encoding="utf-8"))
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
