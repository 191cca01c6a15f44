"""Text of users and models in Markdown, as an independent parser reads it."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.system.markdown import blockquote, fenced, inline, table
from pipeline.system.text import printable, running

# Marks come often, so that what they make together is found.
TEXT = st.text(
    st.one_of(st.sampled_from("\\`*_[]()<>#+-.!|~=:&$@1aé \n\t"), st.characters()), max_size=30
)
MARKED = [
    "# heading",
    "a\n===",
    "- item",
    "1. item",
    "12) item",
    "> quote",
    "**bold** and _this_ and ~~that~~",
    "![i](http://x/y.png) [l](javascript:alert(1)) <https://e.org> www.e.org a@e.org",
    "<script>alert(1)</script> <!-- c --> &lt; &amp; &#35;",
    "`code` ``more`` \\` ```",
    "a | b\n--- | ---",
    "Let $\\R^n$ be $5",
    "[x]: http://e.org",
    ":smile: C:\\x 12:30",
    "    four",
    "***\n___\n---",
    "+ [ ] task\\",
    "a\x00b\x1b[31m\u202e",
    "snake_case __init__ a_",
]


class Read(HTMLParser):
    """The text and the elements of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(markdown: str) -> Read:
    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return Read(parser.render(markdown))


def any_text(test):
    for text in MARKED:
        test = example(text=text)(test)
    return settings(max_examples=60, deadline=None)(given(text=TEXT)(test))


@pytest.mark.parametrize(
    ("before", "after", "elements"),
    [
        ("", "", ["p"]),
        ("# ", "", ["h1"]),
        ("## ", " ##", ["h2"]),
        ("- ", "", ["ul", "li"]),
        ("**", "**: so", ["p", "strong"]),
        ("> ", "", ["blockquote", "p"]),
    ],
)
@any_text
def test_a_text_is_no_markup(before: str, after: str, elements: list[str], text: str) -> None:
    line = f"x{inline(text)}x" if before == "**" else inline(text)
    read = rendered(f"{before}{line}{after}\n\nend")
    shown = f"x{running(text)}x: so" if before == "**" else running(text)
    assert read.text.replace("\n", "") == f"{shown}end"
    if shown:
        assert read.elements == [*elements, "p"]


@any_text
def test_a_table_has_the_cells_that_it_was_given(text: str) -> None:
    read = rendered(table(["a", text], [[text, "1"], ["2", text]], {"a"}))
    assert read.elements.count("td") == 4
    assert set(read.elements) == {"table", "thead", "tbody", "tr", "th", "td"}
    shown = running(text)
    assert read.text.replace("\n", "") == f"a{shown}{shown}12{shown}"


@any_text
def test_a_block_is_the_text(text: str) -> None:
    read = rendered(f"{fenced(text)}\n\nend")
    assert read.elements == ["pre", "code", "p"]
    assert read.text == f"{printable(text)}\n\nend\n"


@any_text
def test_a_quotation_is_the_text(text: str) -> None:
    read = rendered(f"{blockquote(text)}\n\nend")
    assert set(read.elements) <= {"blockquote", "p"}
    shown = "".join(running(line) for line in text.split("\n"))
    assert read.text.replace("\n", "") == f"{shown}end"


def test_plain_words_stay_plain() -> None:
    for text in ("GPT-2 small (124M)", "train.learning_rate 4e-4, a - b", "the-verdict", "漢字 é"):
        assert inline(text) == text
