"""Texts of users and models on pages and in Markdown: what is read is what was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from selenium import webdriver

from pipeline.comparison.page import ComparisonPage, render_html, render_markdown
from pipeline.comparison.table import ComparedModel
from pipeline.pages.figure import drawn
from pipeline.pages.shading import TextSpan
from pipeline.reports import FullSampleReport, NextToken, SampledText
from pipeline.sampling.markdown import markdown
from pipeline.sampling.section import sampling_section
from pipeline.sweep.figures import Panel, PanelLine, draw_panel
from pipeline.sweep.report import SweepPage, SweepTable, as_html, as_markdown
from pipeline.system.text import printable, running, signed
from tests.helpers.chromium import chromium
from tests.helpers.texts import HOSTILE
from tests.system.test_markdown import rendered

CLEAN = [text for text in HOSTILE if text == running(text)]  # the same in an attribute or a text


def samples() -> FullSampleReport:
    drawn_samples = [
        SampledText(
            prompt=text,
            temperature=1.0,
            top_k=None,
            top_p=None,
            min_p=None,
            seed=1,
            completion=f"{text} and on",
            tokens=4,
            finish_reason="length",
            mean_log_prob=-2.0,
            copied=0.5,
            copies=((0, len(text)),),
            longest_copy=text,
            longest_copy_tokens=8 + place,
            longest_copy_position=5,
        )
        for place, text in enumerate(HOSTILE)
    ]
    next_token = NextToken(
        filter="temperature",
        temperature=1.0,
        top_k=None,
        tokens=HOSTILE,
        probabilities=(0.1,) * len(HOSTILE),
        others=0.0,
    )
    settings = {"temperature": 1.0, "top_k": None}
    return FullSampleReport.model_validate(
        {
            "prompts": HOSTILE,
            "chosen": {**settings, "top_p": None, "min_p": None, "seed": 1},
            "grid": [],
            "samples": [sample.model_dump() for sample in drawn_samples],
            "next_token": [next_token.model_dump()],
        }
    )


@pytest.fixture(scope="module")
def comparison() -> ComparisonPage:
    rows = [ComparedModel(text, reason=text) for text in HOSTILE]
    return ComparisonPage(
        subject=HOSTILE[4],
        verdict=" ".join(HOSTILE),
        rows=rows,
        notes=HOSTILE,
        models=HOSTILE[:2],
        windows=[[TextSpan(text, (1.0, 2.0)) for text in HOSTILE]],
        completions={text: {text: text} for text in HOSTILE},
        sampling=sampling_section(samples()),
        facts={text: text for text in HOSTILE},
        params={text: text for text in HOSTILE},
    )


@pytest.fixture(scope="module")
def sweep() -> SweepPage:
    panel = Panel("rate", [PanelLine(text, {"1": (6.0,), "2": (5.0,)}) for text in CLEAN])
    figure = drawn(lambda path, size: draw_panel(panel, path, "loss", size), HOSTILE[4], HOSTILE[4])
    table = SweepTable(HOSTILE[4], ["run", *HOSTILE], [["r", *HOSTILE]] * 2, HOSTILE[4])
    facts = {"The same in all": " ".join(HOSTILE)}
    texts = " ".join(HOSTILE), HOSTILE[4], HOSTILE[4]
    return SweepPage(*texts, [table], {HOSTILE[4]: figure}, facts)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


def check(browser: webdriver.Chrome, html: str, folder: Path) -> str:
    """The page's whole text, once it is sure that it is text alone."""
    (folder / "page.html").write_text(html, encoding="utf-8")
    browser.get((folder / "page.html").as_uri())
    assert browser.title.endswith("· Lossbook")  # which a script would have changed
    found = browser.execute_script(
        "return [...document.querySelectorAll('script,img,iframe,object,a,form,b b,i,h4')].length"
    )
    assert found == 0
    assert browser.get_log("browser") == []
    return str(browser.execute_script("return document.body.textContent"))


def test_a_browser_shows_the_comparison_as_it_was_written(
    browser: webdriver.Chrome, comparison: ComparisonPage, tmp_path: Path
) -> None:
    text = check(browser, render_html(comparison), tmp_path)
    for given in HOSTILE:
        assert text.count(running(given)) >= 4  # completions and samples, with their prompts
        assert printable(given) in text  # notes, facts and params, line by line
        assert signed(given) in text  # the shaded text
    assert not set(text) & set("\x1b\x07\x9b\u202e\r")


def test_a_browser_shows_the_sweep_as_it_was_written(
    browser: webdriver.Chrome, sweep: SweepPage, tmp_path: Path
) -> None:
    text = check(browser, as_html(sweep), tmp_path)
    for given in HOSTILE:
        assert text.count(printable(given)) >= 4
    assert text.count("#ffffff") >= 5  # in the drawings' legends too
    labels = browser.execute_script(
        "return [...document.querySelectorAll('svg')].map(e => e.getAttribute('aria-label'))"
    )
    assert labels == [HOSTILE[4]] * 2


def test_markdown_says_what_was_written(comparison: ComparisonPage, sweep: SweepPage) -> None:
    documents = {
        "samples.md": markdown(samples(), "grid.png", "next.png"),
        "comparison.md": render_markdown(comparison),
        "sweep.md": as_markdown(sweep, "sweep.png"),
    }
    for name, document in documents.items():
        read = rendered(document)
        for given in HOSTILE:
            assert running(given) in read.text, name
        assert not set(document) & set("\x1b\x07\x9b\u202e\r")
        assert set(read.elements) <= {
            *("h1", "h2", "p", "strong", "pre", "code", "ul", "li", "img"),
            *("table", "thead", "tbody", "tr", "th", "td"),
        }
        assert read.elements.count("img") == {"samples.md": 2, "sweep.md": 1}.get(name, 0)
    assert rendered(documents["samples.md"]).elements.count("h2") == len(HOSTILE)
    for given in HOSTILE:
        assert f"{printable(given)} and on\n" in rendered(documents["samples.md"]).text


def test_a_page_of_one_text_is_as_long(comparison: ComparisonPage) -> None:
    """No text closes what it stands in: the table keeps its cells."""
    read = rendered(render_markdown(replace(comparison, notes=())))
    assert read.elements.count("tr") == len(HOSTILE) + 1
    assert read.elements.count("td") == len(HOSTILE) * 7
