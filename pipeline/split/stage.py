"""The split stage: tokens and their report, and for many documents a run in MLflow.

A corpus of many documents gets a run of its own, with what people ask of it first: how large, how
long its documents, of which tokens, what was left out and why, a page of excerpts. It belongs to
no training; every experiment on the same data shares it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.corpus.parquet import Corpus, CorpusMeta
from pipeline.numbers import counted
from pipeline.params import Params, flatten, load_params
from pipeline.plots.lengths import length_histograms
from pipeline.reports import SplitReport, SplitStatistics
from pipeline.split.split import split
from pipeline.system.markdown import blockquote, inline
from pipeline.system.progress import Progress
from pipeline.tracking.open_run import Run
from pipeline.tracking.run import start_run

LISTED = 10_000  # documents left out that MLflow's table shows; the corpus's folder holds all


def run(
    params: Path, corpus: Path, tokens: Path, report: Path, notify: Callable[[str], None]
) -> None:
    """Write the folder `tokens` and the JSON file `report`.

    Raises:
        UserError: the settings are wrong, the corpus is missing or damaged, or a split is empty.
    """
    settings = load_params(params)
    text = Corpus.open(corpus)
    lines: list[str] = []
    with Progress(text.meta.characters, "split", unit="character", speed=True) as bar:
        facts = split(
            corpus,
            tokens,
            settings.split.train_fraction,
            settings.split.test_fraction,
            scheduler=settings.prepare.scheduler,
            progress=bar.advance,
            notify=lines.append,
        )
    facts.write(report)
    total = sum(counts.tokens for counts in facts.splits.values())
    for name, counts in facts.splits.items():
        notify(f"{name}: {counted(counts.tokens, 'token')}, {counts.tokens / total:.1%}")
    for line in lines:
        notify(f"warning: {line}")
    if text.meta.documents > 1:
        publish(settings, text, facts)


def publish(params: Params, corpus: Corpus, facts: SplitReport) -> None:
    """Log what is known of the corpus as a run of its own."""
    meta = corpus.meta
    assert facts.statistics is not None, "split reports them"
    with start_run(
        "split",
        experiment=params.tracking.experiment,
        name=meta.corpus,
        description=(
            f"The corpus **{inline(meta.corpus)}**: {meta.documents:,} documents, "
            f"{meta.characters:,} characters, "
            f"{sum(counts.tokens for counts in facts.splits.values()):,} tokens."
        ),
        params=flatten(params.model_dump(include={"prepare", "split"})),
        tags={"role": "corpus", "corpus": meta.corpus, "corpus_sha256": meta.sha256},
    ) as run:
        run.log_metrics(metrics_of(meta, facts, facts.statistics))
        log_statistics(run, corpus, facts.statistics)


def metrics_of(
    meta: CorpusMeta, facts: SplitReport, statistics: SplitStatistics
) -> dict[str, float]:
    """The run's metrics: sizes, means, and what was left out by its reason."""
    sizes: dict[str, float] = {
        "documents": meta.documents,
        "characters": meta.characters,
        "bytes": meta.bytes,
    }
    for split_name, counts in facts.splits.items():
        sizes |= {f"{split_name}/{name}": number for name, number in counts}
    for split_name, shared in (facts.shared or {}).items():
        sizes |= {
            f"{split_name}/shared_share": shared.share,
            f"{split_name}/near_copies": shared.near_copies,
            f"{split_name}/near_copies_share": shared.near_copies_share,
        }
    means = {name: value for name, value in statistics if isinstance(value, int | float)}
    return sizes | means | {f"left_out/{why}": count for why, count in meta.left_out.items()}


def log_statistics(run: Run, corpus: Corpus, statistics: SplitStatistics) -> None:
    """Log the tables, the figure and the page of excerpts."""
    texts, tokens = corpus.meta.statistics.model_dump(), statistics.model_dump()
    run.log_table(tokens["most_common"], "most_common_tokens.json")
    if left_out := list(islice(corpus.left_out(), LISTED)):
        run.log_table(left_out, "left_out.json")
    excerpts = [
        f"## {inline(one['title'])}\n\n{inline(one['source'])}\n\n{blockquote(one['text'])}\n"
        for one in texts["excerpts"]
    ]
    run.log_text("\n".join(excerpts), "excerpts.md")
    lengths = {"characters": texts["characters_a_document"], "tokens": tokens["tokens_a_document"]}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lengths.png"
        length_histograms(lengths, path)
        run.log_artifact(path, "figures")
