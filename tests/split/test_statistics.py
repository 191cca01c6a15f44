"""What is counted of a text's tokens."""

from __future__ import annotations

import numpy as np

from pipeline.reports import SplitCounts
from pipeline.split.statistics import TokenStatistics
from pipeline.system.text import visible
from pipeline.tokens.tokenizer import encode


def test_common_tokens_that_are_no_characters_are_shown_as_bytes() -> None:
    text = "“遁 the”" * 5
    tokens = np.array(encode(text), dtype=np.uint16)
    statistics = TokenStatistics()
    statistics.add("train", tokens)
    counts = SplitCounts(
        documents=1,
        characters=len(text),
        bytes=len(text.encode()),
        tokens=len(tokens),
    )
    common = [visible(one.text) for one in statistics.report([counts]).most_common]
    assert {"␣the", "<E2 80>", "<E9 81>", "<81>"} <= set(common)
    assert "\ufffd" not in "".join(common)
