"""What marks a web page, found in time that grows with the bytes alone."""

from __future__ import annotations

import time

import pytest

from pipeline.system.http import HTML


@pytest.mark.parametrize(
    ("beginning", "is_page"),
    [
        (b"<!doctype html>", True),
        (b" \n<!-- a --> <!-- <b> -->\n<HTML lang=en>", True),
        (b"<!DOCTYPE\n html >", True),
        (b"<!-- a -->", False),
        (b"<!-- a <html>", False),
        (b"<html5>", False),
        (b"The tag <html> opens a page", False),
    ],
)
def test_web_pages(beginning: bytes, is_page: bool) -> None:
    assert bool(HTML.match(beginning)) is is_page


@pytest.mark.parametrize("part", [b"<!---->", b"<!-- -->  ", b"<!--", b" ", b"<!doctype "])
def test_no_bytes_take_longer_than_their_number(part: bytes) -> None:
    started = time.process_time()
    assert not HTML.match(part * (1_000_000 // len(part)))
    assert time.process_time() - started < 2
