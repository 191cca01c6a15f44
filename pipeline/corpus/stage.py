"""The prepare stage: the corpus that `prepare.corpus` names as Parquet, and its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.corpus.corpora import find, prepare
from pipeline.corpus.parquet import LEFT_OUT
from pipeline.numbers import counted
from pipeline.params import load_params
from pipeline.system.progress import Progress

SMALL = 1 << 25  # bytes of a corpus that is ready before anyone asks when


def run(params: Path, corpus: Path, report: Path, notify: Callable[[str], None]) -> None:
    """Write the folder `corpus` and the JSON file `report`.

    Raises:
        UserError: the settings are wrong, or the corpus cannot be had or read.
    """
    settings = load_params(params).prepare
    source = find(settings)
    total = source.size if (source.size or 0) > SMALL else None
    with Progress(total, "prepare", unit="byte", speed=True) as bar:
        facts = prepare(settings, corpus, source=source, progress=bar.advance)
    facts.write(report)
    notify(
        f"{facts.corpus}: {counted(facts.documents, 'document')}, {counted(facts.bytes, 'byte')}"
    )
    for reason, documents in facts.skipped.items():
        notify(f"left out: {documents:,} {reason}")
    if facts.skipped:
        notify(f"{corpus / LEFT_OUT} lists them")
