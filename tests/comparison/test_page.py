"""The page as text: it stands alone, is well made, and says what it was told and no more."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline.comparison.page import ComparisonPage, render_html, unbroken
from pipeline.pages.figure import inline

VOID = {"meta", "link", "input", "br", "hr", "img"}


class Reader(HTMLParser):
    """Collects elements and text, and fails where tags do not match."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute stands twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture
def html(page: ComparisonPage) -> str:
    return render_html(page)


def test_equal_pages_give_equal_bytes(page: ComparisonPage, html: str) -> None:
    assert render_html(replace(page)) == html


def test_the_page_stands_alone(html: str) -> None:
    reader = read(html)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {"script", "iframe", "img", "object", "embed", "base", "form", "a", "i"}
    for _, attributes in reader.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:"))
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.S)
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [m["content"] for m in reader.all("meta") if m.get("http-equiv")]
    assert policy.startswith("default-src 'none';")
    assert "script-src" not in policy


def test_what_models_write_is_text(html: str) -> None:
    text = read(html).text
    for said in (
        "<script>document.title = 'mine'</script>",
        '"><img src=x onerror="document.title=1">',
        "</style></title><iframe src='https://example.org'>",
        "{{ 7 * 7 }}{% raw %}",
        "nul \\x00, bell \\x07, \\u202eturned round",
        "one↵↵ two⇥tabbed",
        "Ten epochs reach 465 & GPT-2 XL, 1558M, <i>more</i>.",
        "a corpus & <more>",
        "distinct & <2>",
        "copied & <more>",
        "length & <all>: 50",
        "7 dead link & <more>.",
        "␣the",
    ):
        assert said in text
    assert "\x00" not in html


def test_ids_are_unique_and_what_refers_to_them_finds_them(html: str) -> None:
    reader = read(html)
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))
    wanted = [a["for"] for a in reader.all("label")]
    wanted += [a["aria-labelledby"] for a in reader.all("section")]
    wanted += [(a["href"] or "").removeprefix("#") for a in reader.all("use")]
    assert len(wanted) > 20
    assert set(wanted) <= set(ids)


def test_the_page_is_made_for_every_reader(html: str) -> None:
    reader = read(html)
    assert reader.all("html") == [{"lang": "en"}]
    assert all(header.get("scope") in {"col", "row"} for header in reader.all("th"))
    headings = [tag for tag, _ in reader.elements if re.fullmatch(r"h\d", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    drawings = reader.all("svg")
    assert [svg["class"] for svg in drawings] == ["wide", "narrow"] * 3
    for svg in drawings:
        assert svg["role"] == "img"
        assert re.search(r"\d\.\d\d|2 of 64 to 127", svg["aria-label"] or "")
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_numbers_are_rounded_and_the_lowest_stands_out(html: str) -> None:
    assert '<td role="cell" data-label="validation loss" class="best">3.560</td>' in html
    assert html.count('class="best"') == 1
    assert '<td role="cell" data-label="published">3.1195</td>' in html


def test_an_unavailable_row_has_words_for_numbers(html: str) -> None:
    (cells,) = re.findall(r"GPT-2 XL \(1558M\)</span></th>\n(.*?)</tr>", html, re.S)
    assert cells.count("<td") == 2
    assert 'class="why" role="cell" colspan="5">unavailable</td>' in cells


def test_a_column_of_nothing_is_left_out(page: ComparisonPage) -> None:
    rows = [row for row in page.rows if row.published_val_loss is None]
    bare = replace(page, rows=rows, sampling=None, corpus=None)
    (head,) = re.findall(r"<thead.*?</thead>", render_html(bare), re.S)
    assert head.count("<th ") == 6
    assert "published" not in head


def test_a_page_of_little_leaves_the_rest_out(page: ComparisonPage) -> None:
    bare = ComparisonPage(subject="s", verdict="v", rows=page.rows[:1])
    reader = read(render_html(bare))
    assert reader.all("svg") == []
    assert reader.all("fieldset") == []
    for heading in ("Completions", "Samples", "The text", "Where each model", "The settings of"):
        assert heading not in reader.text


def test_a_page_of_much_stays_small(page: ComparisonPage) -> None:
    text = [replace(page.windows[0][1], losses=(5.5,) * 7, text=" tokens") for _ in range(1024)]
    full = replace(page, windows=[text], models=[f"model {i}" for i in range(7)])
    assert len(render_html(full).encode()) < 1_500_000


def test_inline_drawings_do_not_share_ids() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><g id="a"/>'
    svg += '<use xlink:href="#a"/><g clip-path="url(#a)"/></svg>'
    assert inline(svg, "p-", "wide", 'so "it" is') == (
        '<svg class="wide" role="img" aria-label="so &#34;it&#34; is" viewBox="0 0 1 1">'
        '<g id="p-a"/><use href="#p-a"/><g clip-path="url(#p-a)"/></svg>'
    )


def test_no_line_ends_within_a_name() -> None:
    assert unbroken("a GPT-2 XL, <b>") == 'a <span class="unbroken">GPT-2 XL</span>, &lt;b&gt;'
