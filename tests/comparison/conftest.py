"""A page with everything on it, what models write being as nasty as it can be."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from pipeline.comparison.corpus_section import corpus_section
from pipeline.comparison.figures import size_figure, training_figure
from pipeline.comparison.page import ComparisonPage
from pipeline.comparison.table import ComparedModel, Estimate
from pipeline.comparison.uncertainty import Uncertainty
from pipeline.gpt2.sizes import SIZES
from pipeline.pages.shading import TextSpan
from pipeline.reports import CorpusReport, Losses, SplitReport
from pipeline.sampling.section import HeatMap, SamplingSection

NASTY = (
    "<script>document.title = 'mine'</script>",
    '"><img src=x onerror="document.title=1">',
    "</style></title><iframe src='https://example.org'>",
    "{{ 7 * 7 }}{% raw %}",
    "nul \x00, bell \x07, \u202eturned round",
    "one\n\ntwo\ttabbed " + "endless" * 60,
)
HISTORY = pd.DataFrame(
    {
        "step": [0, 1, 2],
        "epoch": [0.0, 1.0, 2.0],
        "tokens_seen": [0, 512, 1024],
        "train_loss": [10.9, 4.0, 0.6],
        "val_loss": [10.8, 6.14, 6.43],
    }
)


def model(name: str, parameters: int, loss: float, **more: object) -> ComparedModel:
    train, val = (
        Losses(loss=nats, perplexity=2.0**nats, bits_per_byte=nats / 3, tokens=512, windows=2)
        for nats in (loss - 1, loss)
    )
    return ComparedModel(name, parameters, train, val, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def rows() -> dict[str, ComparedModel]:
    small, xl = SIZES["124M"], SIZES["1558M"]
    reason = f"{NASTY[1]} {'x' * 300}"
    return {
        "untrained": model("untrained", 162_419_712, 10.93),
        "scratch_best": model("scratch (best)", 162_419_712, 6.14, chosen_here=True),
        "scratch_last": model("scratch (last)", 162_419_712, 6.43),
        "gpt2_124M": model(
            "GPT-2 small (124M)", 124_439_808, 3.56, size=small, published_val_loss=3.5596
        ),
        "gpt2_1558M": ComparedModel(
            "GPT-2 XL (1558M)", size=xl, published_val_loss=3.1195, reason=reason
        ),
    }


def sure(low: float, high: float) -> Uncertainty:
    return Uncertainty(
        interval=(low, high), unit="document", units=312, tokens_per_unit=240, method="95 %, t"
    )


@pytest.fixture(scope="session")
def judged_rows(rows: dict[str, ComparedModel]) -> dict[str, ComparedModel]:
    """The rows with a test split, intervals, and differences from the best."""
    judged = {}
    for key, row in rows.items():
        if row.val is None:
            judged[key] = replace(row, published_val_loss=None)
            continue
        loss = row.val.loss
        above = loss - 6.14
        judged[key] = replace(
            row,
            test=row.val.model_copy(update={"loss": loss + 0.1}),
            uncertainty={"val": sure(loss - 0.3, loss + 0.3), "test": sure(loss, loss + 0.2)},
            difference=Estimate(above, sure(above - 0.04, above + 0.04)),
            published_val_loss=None,
            chosen_here=False,
        )
    return judged


@pytest.fixture(scope="session")
def judged_page(page: ComparisonPage, judged_rows: dict[str, ComparedModel]) -> ComparisonPage:
    figures = {
        "Loss while training": training_figure(HISTORY, judged_rows),
        "Loss against size": size_figure(judged_rows),
    }
    return replace(page, rows=list(judged_rows.values()), figures=figures)


def texts() -> tuple[CorpusReport, SplitReport]:
    """What prepare and split report of a corpus of three documents."""
    lengths = [
        {"from": 64, "below": 128, "documents": 2},
        {"from": 128, "below": 256, "documents": 1},
    ]
    excerpts = [{"source": NASTY[1], "title": NASTY[0], "text": text} for text in NASTY]
    corpus = {"documents": 3, "characters": 1234, "bytes": 1240}
    corpus |= {"corpus": "c", "sha256": "5", "source": "s", "skipped": {"dead link & <more>": 7}}
    corpus["statistics"] = {
        "characters_per_document": 411.3,
        "characters_a_document": lengths,
        "excerpts": excerpts,
    }
    tokens = {
        "tokens_per_document": 111.4,
        "characters_per_token": 3.8,
        "bytes_per_token": 3.8,
        "distinct_tokens": 99,
        "most_common": [{"token": 7, "text": text, "count": 8} for text in (" the", "\n", "<b>")],
        "tokens_a_document": lengths,
    }
    sizes = {"documents": 1, "characters": 1, "bytes": 1}
    split = {name: {"tokens": n, **sizes} for name, n in (("train", 300), ("val", 34))}
    split |= {"corpus": "c", "corpus_sha256": "5", "statistics": tokens}
    return CorpusReport.model_validate(corpus), SplitReport.model_validate(split)


@pytest.fixture(scope="session")
def page(rows: dict[str, ComparedModel]) -> ComparisonPage:
    text = ["A", " quiet", " room", "<b>", "\n", *NASTY, *[" more and more of it"] * 60]
    models = [one.name for one in rows.values() if one.val is not None]
    window = [TextSpan(t, (10.8, i % 12, (i * 7) % 12, i % 5)) for i, t in enumerate(text)]
    cells = [[0.2, 0.5, None], [0.9, 1.0, 0.5]]
    return ComparisonPage(
        subject="a corpus & <more>",
        verdict="Ten epochs reach 465 & GPT-2 XL, 1558M, <i>more</i>.",
        rows=list(rows.values()),
        notes=["Measured over 512 tokens <here>."],
        figures={
            "Loss while training": training_figure(HISTORY, rows),
            "Loss against size": size_figure(rows),
        },
        models=models,
        windows=[window, window[:3]],
        completions={text: {"scratch (best)": text, "GPT-2 small (124M)": text} for text in NASTY},
        sampling=SamplingSection(
            maps=[HeatMap("distinct & <2>", "123", "ab", cells)],
            more_maps=[HeatMap("copied & <more>", "123", "ab", cells)],
            level="length & <all>: 50",
            first={NASTY[0]: [("temperature 1.4", [(False, text)]) for text in NASTY]},
            all={NASTY[2]: [("greedy", [(False, "so"), (True, text)]) for text in NASTY]},
            count=12,
        ),
        corpus=corpus_section(*texts()),
        facts={"Corpus": NASTY[2], "SHA-256": "b" * 64},
        params={"prepare.corpus": NASTY[1], "sample.prompts": list(NASTY)},
    )
