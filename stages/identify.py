"""Note what DVC cannot watch by itself: a local corpus, and the first weights of a training.

DVC watches declared files only, and `prepare.corpus` and `train.init_from` may be any path. So this
stage runs at each `dvc repro` and writes the digests of what lies there; `prepare` and `train`
depend on that, and run when it differs. What is packaged or fetched is pinned elsewhere and is not
read here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.commands.console import FILE, Command

if TYPE_CHECKING:
    from pipeline.params import Params


@click.command(cls=Command)
@click.option("--params", type=FILE, default=Path("params.yaml"), show_default=True)
@click.option("--report", type=FILE, required=True, help="The JSON file on the corpus to write.")
@click.option("--start", type=FILE, required=True, help="The JSON file on first weights to write.")
def main(params: Path, report: Path, start: Path) -> None:
    """Note the digests of a local corpus and of first weights, so that DVC sees changes."""
    from pipeline.corpus.corpora import identify
    from pipeline.params import load_params
    from pipeline.system.files import write_json

    settings = load_params(params)
    write_json(report, identify(settings.prepare))
    write_json(start, identify_start(settings))


def identify_start(params: Params) -> dict[str, Any]:
    """What `train.init_from` reads: nothing, GPT-2 from where it is asked for, or these files."""
    name = params.train.init_from
    if name == "scratch":  # without looking for models, which takes a second
        return {"init_from": name}
    from pipeline.system.digest_cache import digest_of
    from pipeline.system.http import public
    from pipeline.weights import find_start

    source = find_start(name)
    assert source is not None, "only scratch has none"
    if source.size is not None:
        mirror = params.gpt2.mirror and public(params.gpt2.mirror)
        return {"init_from": name, "source": params.gpt2.source, "mirror": mirror}
    return {"init_from": name, "files": {path.name: digest_of(path) for path in source.files}}


if __name__ == "__main__":
    main()
