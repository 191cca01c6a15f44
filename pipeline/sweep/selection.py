"""Which of an experiment's runs make a sweep.

By default the newest one: the training runs that began from the same commit as the newest
training, on the same text. From the same commit, because `dvc exp run --queue` gives all its
experiments one; on the same text, because losses on different texts are no comparison. With them
come the runs that DVC restored for an experiment of that commit, whenever they ran.

Of runs with equal params the newest good one counts: a failure that was run again is no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal

from pipeline.errors import UserError
from pipeline.tracking.mlflow.queries import Recorded

State = Literal["finished", "failed", "unfinished"]
DIGEST = "corpus_sha256"
LENGTH = "model.context_length"
EXPERIMENT = "dvc.exp_name"
AVERAGE = "train.ema_decay"  # of the weights, which it does not change
ORIGINS = ("dvc.baseline", "mlflow.source.git.commit")


@dataclass(frozen=True)
class Scope:
    """What to look at.

    Attributes:
        where: params, or `corpus`, and the values that are wanted of each.
        commit: the beginning of the commit that the sweep began from; None for the newest run's.
        every_commit: all of them, instead.
        since: runs that began then or later, milliseconds since 1970.
    """

    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    commit: str | None = None
    every_commit: bool = False
    since: int = 0

    def holds(self, run: Recorded) -> bool:
        return run.started >= self.since and all(
            any(_same(_param(run, key), value) for value in values)
            for key, values in self.where.items()
        )


@dataclass(frozen=True)
class Trial:
    """One experiment of a sweep.

    Attributes:
        experiment: DVC's name for it; empty for a run of `dvc repro`.
        restored: DVC brought back a run that another experiment, or `dvc repro`, had made.
        error: of a failed one, what it said.
        remarks: what failed in the stages that follow training.
    """

    run: Recorded
    experiment: str
    restored: bool = False
    error: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        if self.run.status in ("FINISHED", "FAILED"):
            return "finished" if self.run.status == "FINISHED" else "failed"
        return "unfinished"


@dataclass(frozen=True)
class Selection:
    """The runs of a sweep, oldest first.

    Attributes:
        commit: where they began; empty for several.
        other_text: runs that were left out because they trained on another text.
        repeats: runs that were left out because an equal one counts.
        averaged: whether runs differ in the average of their weights, which is not judged.
    """

    trials: tuple[Trial, ...]
    commit: str
    corpus: str
    digest: str
    other_text: int = 0
    repeats: int = 0
    averaged: bool = False


def select(
    trainings: Sequence[Recorded],
    failures: Sequence[Recorded],
    scope: Scope,
    restored: Callable[[str], Mapping[str, str]],
    *,
    averages: bool = False,
) -> Selection:
    """The sweep within the scope.

    Args:
        trainings: all training runs, oldest first.
        failures: failed runs of other stages, oldest first.
        restored: from a commit to its experiments' training runs, name to key.
        averages: whether the averages of the weights are judged; else runs that differ in those
            alone are equal, as their weights are.

    Raises:
        UserError: no training run lies within the scope.
    """
    names = {run.tags.get(EXPERIMENT) for run in trainings}
    before = [r for r in failures if _alone(r) and r.tags[EXPERIMENT] not in names]
    matching = sorted(filter(scope.holds, [*trainings, *before]), key=lambda run: run.started)
    matching = [r for r in matching if scope.commit is None or _origin(r).startswith(scope.commit)]
    if not matching:
        raise UserError(_nothing(trainings, scope))
    commit = "" if scope.every_commit else _origin(matching[-1])
    named = {key: name for name, key in restored(commit).items()}
    in_scope = filter(scope.holds, [*trainings, *before])
    runs = [r for r in in_scope if scope.every_commit or _origin(r) == commit or r.key in named]
    runs, other_text = _of_one_text(sorted(runs, key=lambda run: run.started))
    decays = {run.params.get(AVERAGE) for run in runs}
    if not averages:
        runs = [replace(run, params=_without(run.params, AVERAGE)) for run in runs]
    kept = _without_repeats(runs)
    tags = next((run.tags for run in reversed(kept) if DIGEST in run.tags), {})
    return Selection(
        trials=tuple(_trial(run, named, failures) for run in kept),
        commit=commit,
        corpus=tags.get("corpus", ""),
        digest=tags.get(DIGEST, ""),
        other_text=other_text,
        repeats=len(runs) - len(kept),
        averaged=not averages and len(decays) > 1,
    )


def swept_params(trials: Iterable[Trial]) -> list[str]:
    """The params that differ, in the order in which runs list them."""
    values: dict[str, set[str]] = {}
    for trial in trials:
        for key, value in trial.run.params.items():
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1]


def with_curves(
    selection: Selection, curve: Callable[[Recorded], tuple[tuple[int, float], ...]]
) -> Selection:
    """The same runs with their curves."""
    trials = [replace(t, run=replace(t.run, curve=curve(t.run))) for t in selection.trials]
    return replace(selection, trials=tuple(trials))


def _param(run: Recorded, key: str) -> str | None:
    """A param of a run; its corpus is a tag."""
    return run.tags.get(key) if key == "corpus" else run.params.get(key)


def _same(text: str | None, wanted: str) -> bool:
    """`4e-4` is 0.0004."""
    if text is None or text == wanted:
        return text == wanted
    try:
        return float(text) == float(wanted)
    except ValueError:
        return False


def _origin(run: Recorded) -> str:
    return next((run.tags[tag] for tag in ORIGINS if tag in run.tags), "")


def _alone(run: Recorded) -> bool:
    return run.parent is None and EXPERIMENT in run.tags


def _of_one_text(runs: Sequence[Recorded]) -> tuple[list[Recorded], int]:
    """Those on the newest run's text, and those that ended before they had one.

    With another split the validation text is another; windows of another length are the same text.
    """
    digest = next((run.tags[DIGEST] for run in reversed(runs) if DIGEST in run.tags), None)
    windows = {run.params.get(LENGTH): run.validation for run in runs if run.validation}
    kept = [
        run
        for run in runs
        if run.tags.get(DIGEST, digest) == digest
        and run.validation in (None, windows.get(run.params.get(LENGTH)))
    ]
    return kept, len(runs) - len(kept)


def _without(params: Mapping[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in params.items() if name != key}


def _without_repeats(runs: Sequence[Recorded]) -> list[Recorded]:
    best: dict[frozenset[tuple[str, str]], Recorded] = {}
    for run in runs:
        known = frozenset(run.params.items())
        if known not in best or run.status == "FINISHED" or best[known].status != "FINISHED":
            best[known] = run
    return sorted(best.values(), key=lambda run: run.started)


def _trial(run: Recorded, named: Mapping[str, str], failures: Sequence[Recorded]) -> Trial:
    own = run.tags.get(EXPERIMENT, "")
    name = named.get(run.key, own)
    error = run.tags.get("error", "no reason given") if run.status == "FAILED" else ""
    later = [
        f"{failure.stage}: {failure.tags.get('error', 'failed')}"
        for failure in failures
        if failure is not run
        and (failure.parent == run.run_id or (name and failure.tags.get(EXPERIMENT) == name))
    ]
    return Trial(run, name, restored=name != own, error=error, remarks=tuple(later))


def _nothing(trainings: Sequence[Recorded], scope: Scope) -> str:
    if not trainings:
        return (
            "no training runs yet; queue some with `dvc exp run --queue -S "
            "train.learning_rate=1e-4,4e-4`, then `dvc queue start`"
        )
    asked = [f"{key}={','.join(values)}" for key, values in scope.where.items()]
    if scope.commit is not None:
        asked.append(f"commit {scope.commit}")
    if scope.since:
        asked.append(f"since {datetime.fromtimestamp(scope.since / 1000):%Y-%m-%d %H:%M}")
    return f"none of {len(trainings)} training runs fits {', '.join(asked)}"
