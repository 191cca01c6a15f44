"""The identify stage: what DVC cannot watch by itself, a local corpus and others' weights.

DVC watches declared files only, and `prepare.corpus`, `train.init_from` and `evaluate.ensemble` may
name any path. So this stage runs at each `dvc repro` and writes the digests of what lies there;
`prepare`, `train` and `evaluate` depend on that, and run when it differs. A GPT-2 that a training
starts from is fetched for that.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.corpus.corpora import identify
from pipeline.gpt2.location import check_source
from pipeline.params import Params, load_params
from pipeline.reports import FirstWeights, Gpt2Weights, LocalWeights, Members
from pipeline.system.digest_cache import digest_of
from pipeline.system.http import public
from pipeline.system.progress import say
from pipeline.tracking.paths import queue_problem


def run(params: Path, report: Path, start: Path, ensemble: Path) -> None:
    """Write `report` on the corpus, `start` on first weights, `ensemble` on the models of one.

    Raises:
        UserError: the settings are wrong, or what they name is not there.
    """
    if problem := queue_problem():  # this stage runs each time, and before any queue
        say(f"warning: {problem}")
    settings = load_params(params)
    check_source(settings.gpt2)  # better said now than after the training
    identify(settings.prepare).write(report)
    identify_start(settings).write(start)
    identify_members(settings).write(ensemble)


def identify_start(params: Params) -> FirstWeights:
    """What `train.init_from` reads: nothing, GPT-2 from where it is asked for, or these files.

    Raises:
        UserError: it cannot be had, or is of another architecture than the params ask for.
    """
    name = params.train.init_from
    if name == "scratch":
        return FirstWeights(init_from=name)
    # These import torch: a second that `scratch` can do without.
    from pipeline.gpt2.fetch import fetch
    from pipeline.model.start import check_architecture, config_of
    from pipeline.weights import find_start

    source = find_start(name)
    assert source is not None, "only scratch has none"
    check_architecture(source.config(params.gpt2), config_of(params.model), name)
    if source.size is not None:
        mirror = params.gpt2.mirror and public(params.gpt2.mirror)
        found = fetch(source.size, params.gpt2)  # which `config` has seen to
        files = {name: file.sha256 for name, file in found.files.items()}
        return Gpt2Weights(init_from=name, source=params.gpt2.source, mirror=mirror, files=files)
    files = {path.name: digest_of(path) for path in source.files}
    return LocalWeights(init_from=name, files=files)


def identify_members(params: Params) -> Members:
    """The files that `evaluate.ensemble` reads; those of this training are not there yet.

    Raises:
        UserError: a model cannot be had, or reads other windows than `model.context_length`.
    """
    if not (names := params.evaluate.ensemble):
        return Members(members={})
    from pipeline.weights import find_members, is_trained  # torch, as above

    others = [name for name in names if not is_trained(name)]
    found = find_members(others, params.model.context_length)
    return Members(members={one.name: {p.name: digest_of(p) for p in one.files} for one in found})
