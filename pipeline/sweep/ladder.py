"""A ladder: a sweep over size or training text as a scaling law, and how far GPT-2 is from it.

N counts all parameters, as Hoffmann et al. (2022) and this project's tables; without embeddings
(Kaplan et al. 2020) the exponents of small models are others (Pearce and Song 2024). D counts the
training tokens that a run saw at least once: a repeated token is no new text (Muennighoff et al.
2023), so where D differs, runs that read more than an epoch are left out. Compute is 6 N times all
tokens seen. Of the settings with equal N and D, as several learning rates, the lowest counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.numbers import counted
from pipeline.numbers import shown as shown_number
from pipeline.sweep.conclusion import METRICS, in_brackets, short
from pipeline.sweep.ranking import Sweep, parsed
from pipeline.sweep.scaling import FLATTEST, LEVEL, STEEPEST, Floats, Scaling, fit
from pipeline.tokens.tokenizer import VOCABULARY

SIZES = ("model.n_layer", "model.n_embd")
TEXTS = ("train.max_steps", "train.epochs")
# One ladder is of one kind of model on the same windows.
ALIKE = ("model.context_length", "model.tie_weights", "model.qkv_bias", "train.init_from")
AXES = {"N": "parameters", "D": "training tokens"}
FEWEST = {1: 4, 2: 6}  # rungs, by terms: one more than the law has numbers
VALUES = 3  # of N and of D, where both differ
TOGETHER = 0.95  # of the correlation of log N with log D: above, their terms are one
FARTHEST = 10.0  # times the measured range
GUESSING = math.log(VOCABULARY)  # nats per token
SAME = 1.05  # times as many tokens: batches of other sizes leave over others of an epoch


@dataclass(frozen=True)
class Rung:
    """The lowest setting of its N and D.

    Attributes:
        seen: tokens, each as often as it was read.
    """

    parameters: float
    tokens: float
    seen: float
    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        return math.fsum(self.scores) / len(self.scores)

    @property
    def compute(self) -> float:
        """FLOPs."""
        return 6 * self.parameters * self.seen

    def of(self, axis: str) -> float:
        return {"N": self.parameters, "D": self.tokens, "C": self.compute}[axis]


@dataclass(frozen=True)
class Ladder:
    """What a ladder came to.

    Attributes:
        rungs: by parameters, then by tokens.
        axes: N, D or both: what differs.
        scaling: None where no law is fitted.
        refusal: why not.
        levels: GPT-2's losses on the same windows, by name, where they were measured.
        left_out: settings that do not count, by the reason.
    """

    rungs: tuple[Rung, ...]
    axes: tuple[str, ...]
    scaling: Scaling | None
    refusal: str
    levels: Mapping[str, float]
    left_out: Mapping[str, int]

    def logs(self) -> Floats:
        """(rungs, axes)."""
        return np.log([[rung.of(axis) for axis in self.axes] for rung in self.rungs])

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "rungs": [
                {
                    "parameters": r.parameters,
                    "tokens": r.tokens,
                    "tokens_seen": r.seen,
                    "compute": r.compute,
                    "losses": r.scores,
                }
                for r in self.rungs
            ],
            "varied": list(self.axes),
            "levels": dict(self.levels),
            "left_out": dict(self.left_out),
            "refusal": self.refusal or None,
            "law": None,
            "conclusion": self.conclusion(),
        }
        if self.scaling is not None:
            law = {"E": _ends(self.scaling.floors)}
            for place, axis in enumerate(self.axes):
                law[{"N": "alpha", "D": "beta"}[axis]] = _ends(self.scaling.exponents(place))
            found["law"] = {"band": LEVEL, "value_low_high": law}
        return found

    def conclusion(self) -> str:
        """The law and what it takes to reach each level, or why there is none."""
        if self.scaling is None:
            return f"No scaling law: {self.refusal}."
        parts = [f"E = {_with_ends(self.scaling.floors)}"]
        for place, axis in enumerate(self.axes):
            name = {"N": "alpha", "D": "beta"}[axis]
            parts.append(f"{name} = {_with_ends(self.scaling.exponents(place), STEEPEST)}")
        law = " + ".join({"N": "A / N^alpha", "D": "B / D^beta"}[axis] for axis in self.axes)
        sentences = [f"Scaling law: L = E + {law}, {', '.join(parts)} ({100 * LEVEL:.0f} % bands)."]
        if not self.levels:
            sentences.append("GPT-2 was not measured on these windows: there is no level to reach.")
        return " ".join([*sentences, *(self._reach(*level) for level in self.levels.items())])

    def _reach(self, name: str, loss: float) -> str:
        """What it takes to reach a level, as an extrapolation; refused where it is too far."""
        assert self.scaling is not None
        level = f"{name}'s {shown_number(loss)}"
        lowest = min(self.rungs, key=lambda rung: rung.mean)
        if lowest.mean <= loss:
            return f"The lowest rung, {shown_number(lowest.mean)}, has reached {level}."
        floors = self.scaling.floors
        if floors[0] >= loss:
            sure = np.quantile(floors[1:], (1 - LEVEL) / 2) >= loss
            what = "lies above it" if sure else "may lie above it: these rungs do not say"
            return (
                f"For {level} nothing is said: the law's E, what no more {self._what()} remove, "
                f"{what}."
            )
        logs = self.scaling.needed(loss)
        needed = {axis: np.exp(logs[:, place]) for place, axis in enumerate(self.axes)}
        most = {axis: max(rung.of(axis) for rung in self.rungs) for axis in self.axes}
        if len(self.axes) > 1:
            needed["C"] = 6 * np.exp(logs.sum(1))
            most["C"] = max(rung.compute for rung in self.rungs)
        names = {**AXES, "C": "FLOPs"}
        for axis, of_axis in needed.items():
            if of_axis[0] > FARTHEST * most[axis]:
                return (
                    f"For {level} nothing is said: the law puts it beyond ten times the "
                    f"{_compact(most[axis])} {names[axis]} that were measured."
                )
        amounts = ", ".join(
            f"{_span(of_axis, FARTHEST * most[axis])} {names[axis]}"
            for axis, of_axis in needed.items()
        )
        times = max(float(of_axis[0]) / most[axis] for axis, of_axis in needed.items())
        return (
            f"To reach {level} would take {amounts}: an extrapolation to {times:.1f} times what "
            "was measured."
        )

    def _what(self) -> str:
        return " and ".join(AXES[axis] for axis in self.axes)

    def note(self) -> str:
        """How N, D and compute are counted, and what was left out."""
        repeats = max((rung.seen / rung.tokens for rung in self.rungs), default=1.0)
        sentences = [
            "N: all parameters, embeddings and head included. D: training tokens seen at least "
            "once. Compute: 6 N times all tokens seen, in FLOPs. Of settings with equal N and D "
            "the lowest counts. The band is where a new run with a seed of its own falls in "
            f"{100 * LEVEL:.0f} %."
        ]
        if repeats > SAME:
            sentences.append(
                f"These runs read their text up to {repeats:.3g} times: the law is of this text."
            )
        sentences += [
            f"Left out: {counted(number, 'setting')} {why}."
            for why, number in self.left_out.items()
        ]
        return " ".join(sentences)


def climb(sweep: Sweep, levels: Callable[[], Mapping[str, float]]) -> Ladder | None:
    """The sweep as a ladder; None where it varies neither size nor training text.

    Args:
        levels: finds GPT-2's losses on the sweep's validation windows, by name.
    """
    if sweep.metric not in METRICS or not {*SIZES, *TEXTS} & {*sweep.swept}:
        return None
    left_out: dict[str, int] = {}
    rungs = _rungs(sweep, left_out)
    axes = tuple(axis for axis in AXES if len({rung.of(axis) for rung in rungs}) > 1)
    refusal = _refusal(sweep, rungs, axes)
    scaling = None
    if not refusal:
        runs = [(place, score) for place, rung in enumerate(rungs) for score in rung.scores]
        index, losses = np.array([p for p, _ in runs]), np.array([score for _, score in runs])
        logs = np.log([[rungs[place].of(axis) for axis in axes] for place in index])
        scaling = fit(logs, losses, index)
        flat = [n for n, axis in enumerate(axes) if _ends(scaling.exponents(n))[1] <= 2 * FLATTEST]
        if flat:
            names = " or with ".join(AXES[axes[place]] for place in flat)
            refusal, scaling = f"these rungs do not show that losses fall with {names}", None
    return Ladder(tuple(rungs), axes, scaling, refusal, levels(), left_out)


def _rungs(sweep: Sweep, left_out: dict[str, int]) -> list[Rung]:
    """The lowest setting of each N and D; adds to `left_out` the settings that do not count."""
    found: list[Rung] = []
    for setting in sweep.settings:  # lowest first
        names = ("parameters", "tokens_seen", "eval/epoch")
        parameters, seen, epochs = (setting.mean_of(name) for name in names)
        if setting.failed:
            why = "of which seeds failed"
        elif not (parameters and seen and epochs):
            why = "that do not say their parameters and tokens"
        elif any(trial.run.metrics.get("best/step") == 0 for trial in setting.trials):
            why = "that never were better than untrained"
        elif setting.mean > GUESSING:
            why = "that are worse than guessing"
        else:
            found.append(Rung(parameters, round(seen / max(epochs, 1.0)), seen, setting.scores))
            continue
        left_out[why] = left_out.get(why, 0) + 1
    tokens = [rung.tokens for rung in found]
    if tokens and max(tokens) > SAME * min(tokens):
        once = [rung for rung in found if rung.seen <= SAME * rung.tokens]
        if len(once) < len(found):
            left_out["that read their text again, which is no new text"] = len(found) - len(once)
        found = once
    else:
        found = [replace(rung, tokens=max(tokens)) for rung in found]
    lowest: dict[tuple[float, float], Rung] = {}
    for rung in found:
        lowest.setdefault((rung.parameters, rung.tokens), rung)
    return [lowest[key] for key in sorted(lowest)]


def _refusal(sweep: Sweep, rungs: Sequence[Rung], axes: Sequence[str]) -> str:
    """Why these rungs show no law; empty where they do."""
    for key in ALIKE:
        if key in sweep.swept:
            return f"{short(key)} differs, and a law is of one kind of model; choose with --where"
    start = next((t.run.params.get("train.init_from") for t in sweep.selection.trials), None)
    if start is not None and parsed(start) != "scratch":
        return "these runs go on from trained weights (train.init_from)"
    if not axes:
        return (
            "the rungs do not differ in parameters or in training tokens; reading a text again "
            "adds no tokens"
        )
    values = {axis: len({rung.of(axis) for rung in rungs}) for axis in axes}
    said = " and ".join(f"{number} of {AXES[axis]}" for axis, number in values.items())
    if len(rungs) < FEWEST[len(axes)]:
        return (
            f"{counted(len(rungs), 'rung')}, with different values {said}; "
            f"{FEWEST[len(axes)]} are the fewest that show one"
        )
    if len(axes) > 1 and min(values.values()) < VALUES:
        return (
            f"different values {said}; a law of both takes {VALUES} of each, and --where leaves one"
        )
    logs = np.log([[rung.of(axis) for axis in axes] for rung in rungs])
    if len(axes) > 1 and abs(np.corrcoef(logs.T)[0, 1]) > TOGETHER:
        return "parameters and tokens grow together, so that their effects cannot be told apart"
    return ""


def _ends(values: Floats) -> tuple[float, float, float]:
    """The fit's value and the band of the draws."""
    low, high = np.quantile(values[1:], ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(values[0]), float(low), float(high)


def _with_ends(values: Floats, most: float = math.inf) -> str:
    """`0.34 [0.301, 0.392]`; of a band that ends where the search does, only where it begins."""
    value, low, high = _ends(values)
    if high >= 0.99 * most:
        return f"{shown_number(value, 2)} (from {shown_number(low, 2)} on)"
    return f"{shown_number(value, 2)} {in_brackets(low, high)}"


def _span(values: Floats, limit: float) -> str:
    """`from 1.2M to 3.4M`; an end beyond the limit is none."""
    low, high = np.quantile(values[1:], ((1 - LEVEL) / 2, (1 + LEVEL) / 2), method="nearest")
    end = f"to {_compact(high)}" if high <= limit else f"to beyond {_compact(limit)}"
    return f"from {_compact(low)} {end}"


def _compact(number: float) -> str:
    """`124M`; `1.2e17` from where there is no name."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if unit * 0.9995 <= number < 1e15:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"
