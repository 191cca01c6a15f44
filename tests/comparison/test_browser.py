"""The page in a real browser: phone and desk, light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from pipeline.comparison.page import ComparisonPage, render_html
from tests.helpers.chromium import chromium

PHONE, DESK = (390, 844), (1280, 900)
AA = 4.5

# The contrast of each text that shows with what lies behind it, worst first.
CONTRAST = """
const paint = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
function rgba(colour) {
  paint.clearRect(0, 0, 1, 1);
  paint.fillStyle = colour;
  paint.fillRect(0, 0, 1, 1);
  return [...paint.getImageData(0, 0, 1, 1).data];
}
function luminance(colour) {
  const [r, g, b] = colour.map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function behind(element) {
  for (let e = element; e; e = e.parentElement) {
    const colour = rgba(getComputedStyle(e).backgroundColor);
    if (colour[3] === 255) return colour;
    if (colour[3] !== 0) throw new Error('a translucent background');
  }
  throw new Error('nothing behind');
}
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const element = walk.currentNode.parentElement;
  if (!walk.currentNode.data.trim() || !element.checkVisibility()) continue;
  const style = getComputedStyle(element);
  const drawn = element instanceof SVGElement;
  const ink = luminance(rgba(drawn ? style.fill : style.color));
  const paper = luminance(behind(element));
  const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
  found.push([ratio, element.tagName, walk.currentNode.data.trim().slice(0, 30)]);
}
return found.sort((a, b) => a[0] - b[0]);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture(scope="module")
def address(page: ComparisonPage, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "comparison.html"
    path.write_text(render_html(page), encoding="utf-8")
    return path.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, (820, 1180), DESK])
def test_a_table_with_a_test_and_intervals_can_be_read(
    browser: webdriver.Chrome,
    judged_page: ComparisonPage,
    tmp_path: Path,
    size: tuple[int, int],
    scheme: str,
) -> None:
    path = tmp_path / "comparison.html"
    path.write_text(render_html(judged_page), encoding="utf-8")
    show(browser, path.as_uri(), size, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= size[0]
    ratio, tag, text = browser.execute_script(CONTRAST)[0]
    assert ratio >= AA, f"{tag} {text!r} has a contrast of {ratio:.2f}"
    table = browser.find_element(By.CSS_SELECTOR, ".side")
    for shown in ("[10.930, 11.130]", "+0.290", "[+0.250, +0.330]", "3.660"):
        assert shown in table.text
    wide = browser.execute_script("return arguments[0].scrollWidth", table)
    assert size != DESK or wide <= 912, "the whole table is seen at once"


def show(browser: webdriver.Chrome, address: str, size: tuple[int, int], scheme: str) -> None:
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == PHONE}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)  # what came before is not the page's
    browser.get(address)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")


def requests(browser: webdriver.Chrome) -> set[str]:
    """Every address that the page has asked for."""
    events: list[dict[str, Any]] = [
        json.loads(entry["message"])["message"] for entry in browser.get_log("performance")
    ]
    return {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK])
def test_everything_can_be_read(
    browser: webdriver.Chrome, address: str, size: tuple[int, int], scheme: str
) -> None:
    show(browser, address, size, scheme)
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= size[0]
    texts = browser.execute_script(CONTRAST)
    assert len(texts) > 500
    ratio, tag, text = texts[0]
    assert ratio >= AA, f"{tag} {text!r} has a contrast of {ratio:.2f}"
    assert {"text", "H1", "TD", "SPAN", "DD", "SUMMARY"} <= {tag for _, tag, _ in texts}
    assert browser.get_log("browser") == []
    assert requests(browser) <= {address, "data:,"}
    assert "Lossbook" in browser.title  # no script of a model has run


def test_dark_is_dark_and_the_drawings_follow(browser: webdriver.Chrome, address: str) -> None:
    script = """
      const texts = [...document.querySelectorAll('svg.wide text')];
      const text = texts.find(text => text.textContent == 'epochs');
      return [getComputedStyle(document.body).backgroundColor, getComputedStyle(text).fill];
    """
    show(browser, address, DESK, "light")
    light = browser.execute_script(script)
    show(browser, address, DESK, "dark")
    dark = browser.execute_script(script)
    assert light == ["rgb(253, 252, 250)", "rgb(91, 96, 107)"]
    assert dark == ["rgb(22, 24, 29)", "rgb(164, 169, 179)"]


def drawings(browser: webdriver.Chrome) -> list[str]:
    shown = [svg for svg in browser.find_elements(By.TAG_NAME, "svg") if svg.is_displayed()]
    return [str(svg.get_attribute("class")) for svg in shown]


def test_a_phone_gets_the_narrow_drawings(browser: webdriver.Chrome, address: str) -> None:
    show(browser, address, PHONE, "light")
    assert drawings(browser) == ["narrow"] * 3
    show(browser, address, DESK, "light")
    assert drawings(browser) == ["wide"] * 3


def rows_shown(browser: webdriver.Chrome) -> set[str]:
    rows = browser.find_elements(By.CSS_SELECTOR, ".text .row")
    return {str(row.get_attribute("class")) for row in rows if row.is_displayed()}


def test_one_models_text_can_be_read_alone(browser: webdriver.Chrome, address: str) -> None:
    show(browser, address, DESK, "light")
    assert rows_shown(browser) == {"row m0", "row m1", "row m2", "row m3"}
    browser.find_element(By.CSS_SELECTOR, "label[for=view-1]").click()
    assert rows_shown(browser) == {"row m1"}
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert rows_shown(browser) == {"row m2"}
    script = "return document.querySelector('.text').innerText.includes('A quiet room<b>↵')"
    assert browser.execute_script(script)
