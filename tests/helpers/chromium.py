"""Chromium, driven by selenium; a test that asks for it is skipped where there is none."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
QUIET = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
    "--window-size=1400,900"
)


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser with a profile of its own."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no Chromium with chromedriver here (Debian: chromium, chromium-driver)")
    options = Options()
    options.binary_location = CHROMIUM
    for argument in [*QUIET.split(), f"--user-data-dir={profile}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def save_picture(browser: webdriver.Chrome, path: Path) -> None:
    """What the window shows, in few colours, so that Git can hold it."""
    from io import BytesIO

    from PIL import Image

    shown = Image.open(BytesIO(base64.b64decode(browser.get_screenshot_as_base64())))
    path.parent.mkdir(parents=True, exist_ok=True)
    shown.convert("RGB").quantize(64).save(path, optimize=True)
