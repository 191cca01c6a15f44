"""The report of a sweep: a page that stands alone, and the same as Markdown for MLflow and Git."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path

from pipeline.errors import UserError
from pipeline.numbers import counted
from pipeline.numbers import shown as shown_number
from pipeline.pages.figure import Figure, drawn, numbered
from pipeline.pages.template import template
from pipeline.sweep.conclusion import (
    METRICS,
    conclusion,
    in_brackets,
    in_words,
    listed,
    short,
    shown,
)
from pipeline.sweep.figures import Panel, curves, draw_curves, draw_panel, draw_sweep, panels
from pipeline.sweep.ladder import Ladder
from pipeline.sweep.ladder_figures import draw_axes, draw_ladder, pictured
from pipeline.sweep.ranking import SEED, Setting, Sweep, score, seconds
from pipeline.sweep.selection import Trial
from pipeline.system.files import write_text
from pipeline.system.markdown import inline, table

OURS = b"Lossbook</title>"  # in every page
NOT_DISTINGUISHED = "≈"
TEXTS = frozenset({"run", "experiment", "error", "status", "then failed"})


@dataclass(frozen=True)
class SweepTable:
    """Words in rows; the first cell names its row.

    Attributes:
        texts: the headings of columns that hold words rather than numbers.
        first_is_best: the first row is to stand out.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    texts: frozenset[str] = frozenset()
    first_is_best: bool = False

    def is_text(self, column: int) -> bool:
        return column == 0 or self.headings[column] in self.texts


@dataclass(frozen=True)
class SweepPage:
    """What the report shows.

    Attributes:
        subject: what was swept, in words.
        conclusion: the headline.
        ladder: the scaling law and what GPT-2's losses take; empty where there is none.
        tables: the first one comes before the figures.
        figures: by heading.
        facts: how it was made, in words.
    """

    subject: str
    conclusion: str
    ladder: str
    tables: Sequence[SweepTable]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)


def write_report(sweep: Sweep, ladder: Ladder | None, page: SweepPage, folder: Path) -> list[Path]:
    """Write `sweep.html`, `sweep.md` and, where something can be drawn, `sweep.png`.

    Raises:
        UserError: files of these names are there, and no earlier report's.
    """
    html, markdown, picture = (folder / f"sweep.{suffix}" for suffix in ("html", "md", "png"))
    _refuse_others(html, markdown, picture)
    has_picture = bool(panels(sweep) or curves(sweep))
    write_text(html, as_html(page))  # first: by it the others are known as ours
    write_text(markdown, as_markdown(page, picture.name if has_picture else None))
    picture.unlink(missing_ok=True)
    if has_picture:
        more = [partial(draw_axes, picture=one) for one in pictured(ladder, axis(sweep))]
        draw_sweep(panels(sweep), curves(sweep), picture, ylabel=axis(sweep), more=more)
    return [html, markdown, picture] if has_picture else [html, markdown]


def _refuse_others(html: Path, *others: Path) -> None:
    there = [path for path in (html, *others) if path.exists()]
    if there and not (html.is_file() and OURS in html.read_bytes()):
        raise UserError(
            f"{there[0]}: `lossbook sweep` did not write it and would replace it; --reports names "
            "another folder"
        )


def make_page(sweep: Sweep, ladder: Ladder | None = None) -> SweepPage:
    return SweepPage(
        subject=f"sweep of {listed(sweep.swept)} on {sweep.selection.corpus or 'no text'}",
        conclusion=conclusion(sweep),
        ladder=ladder.conclusion() if ladder else "",
        tables=tables(sweep, ladder),
        figures=figures(sweep, ladder),
        facts=facts(sweep),
    )


def axis(sweep: Sweep) -> str:
    return f"{METRICS.get(sweep.metric, sweep.metric)}, nats per token"


def tables(sweep: Sweep, ladder: Ladder | None = None) -> list[SweepTable]:
    found = [settings_table(sweep), runs_table(sweep)] if sweep.settings else []
    if ladder:
        found.insert(1, rungs_table(ladder))
    if sweep.failed:
        found.append(
            _trials_table("Failed", sweep, sweep.failed, "error", lambda trial: trial.error)
        )
    if sweep.unfinished:
        rows = sweep.unfinished
        found.append(
            _trials_table("Not finished", sweep, rows, "status", lambda trial: trial.run.status)
        )
    return found


def settings_table(sweep: Sweep) -> SweepTable:
    """Lowest first, each with the interval of its mean, its gap to the lowest and its spread."""
    measure = METRICS.get(sweep.metric, sweep.metric)
    headings = ["", *map(short, sweep.swept), measure, "95 % interval", "above the lowest"]
    headings += ["± over seeds", "lowest seed", "seeds"]
    headings += ["best at epoch", "last validation", "last training"]
    rows = []
    means = [setting.mean for setting in sweep.settings]
    for setting in sweep.settings:
        spread = "" if setting.spread is None else shown_number(setting.spread, 4)
        rows.append(
            [
                str(1 + means.index(setting.mean)),  # equal means share a place
                *(shown(setting.values[key]) for key in sweep.swept),
                shown_number(setting.mean, 4),
                in_brackets(*setting.interval) if setting.interval else "",
                _gap(sweep, setting),
                spread,
                shown_number(setting.scores[0], 4),
                str(len(setting.scores)),
                *_means(setting),
            ]
        )
    return SweepTable(
        "Settings, lowest loss first", headings, rows, _note(sweep), first_is_best=sweep.has_lead
    )


def _note(sweep: Sweep) -> str:
    how = "paired by seed" if sweep.paired else "as samples of seeds"
    parts = [
        "Means over the seeds of a setting, in nats per token, with the interval of that mean; "
        "lower is better, and ± is the standard deviation of one seed's loss."
    ]
    if any(setting.gap for setting in sweep.settings):
        parts.append(
            f"Gaps are compared {how}, with t intervals by Holm's procedure over all pairs, which "
            "claims a lead in at most 5 % of sweeps that have none."
        )
    if sweep.rivals:
        parts.append(f"{NOT_DISTINGUISHED}: these seeds do not distinguish it from the lowest.")
    return " ".join(parts)


def _gap(sweep: Sweep, setting: Setting) -> str:
    """`0.120 [0.050, 0.190]`, marked where it is not to be distinguished from none."""
    size = setting.mean - sweep.settings[0].mean
    if size == 0:
        return ""
    interval = setting.gap.interval if setting.gap else None
    mark = "" if setting.gap and setting.gap.is_lead else f"{NOT_DISTINGUISHED} "
    return f"{mark}{shown_number(size)}" + (f" {in_brackets(*interval)}" if interval else "")


def _means(setting: Setting) -> list[str]:
    digits = {"best/epoch": 1, "last/val_loss": 3, "last/train_loss": 3}
    found = [(setting.mean_of(metric), places) for metric, places in digits.items()]
    return ["" if value is None else shown_number(value, places) for value, places in found]


def rungs_table(ladder: Ladder) -> SweepTable:
    """The rungs beside the law, which the note states."""
    headings = ["parameters", "training tokens", "FLOPs", "loss", "the law", "seeds"]
    fitted = [""] * len(ladder.rungs)
    if ladder.scaling:
        fitted = [shown_number(loss, 4) for loss in ladder.scaling.losses(ladder.logs())]
    rows = [
        [
            f"{rung.parameters:,.0f}",
            f"{rung.tokens:,.0f}",
            f"{rung.compute:.3g}",
            shown_number(rung.mean, 4),
            law,
            str(len(rung.scores)),
        ]
        for rung, law in zip(ladder.rungs, fitted, strict=True)
    ]
    note = f"{ladder.conclusion()} {ladder.note()}"
    return SweepTable("Rungs of the ladder", headings, rows, note)


def runs_table(sweep: Sweep) -> SweepTable:
    """Every run that counts, in the order of the settings."""
    headings = ["run", "experiment", *map(short, sweep.swept), SEED, "loss", "seconds"]
    trials = [trial for setting in sweep.settings for trial in setting.trials]
    remarks = any(trial.remarks for trial in trials)
    rows = []
    for trial in trials:
        value, took = score(trial, sweep.metric), seconds(trial)
        row = [
            trial.run.run_id[:8],
            _experiment(trial),
            *_params(sweep, trial),
            "" if value is None else shown_number(value, 4),
            "" if took is None else f"{took:.0f}",
        ]
        rows.append([*row, "; ".join(trial.remarks)] if remarks else row)
    note = "dvc exp apply EXPERIMENT brings an experiment's params and outputs here."
    headings += ["then failed"] if remarks else []
    return SweepTable("Runs", headings, rows, note, texts=TEXTS)


def _trials_table(
    title: str, sweep: Sweep, trials: Sequence[Trial], what: str, text: Callable[[Trial], str]
) -> SweepTable:
    headings = ["run", "experiment", *map(short, sweep.swept), SEED, what]
    rows = [
        [trial.run.run_id[:8], _experiment(trial), *_params(sweep, trial), text(trial)]
        for trial in trials
    ]
    return SweepTable(title, headings, rows, texts=TEXTS)


def _experiment(trial: Trial) -> str:
    name = trial.experiment or "dvc repro"
    return f"{name} (restored)" if trial.restored else name


def _params(sweep: Sweep, trial: Trial) -> list[str]:
    return [shown(trial.run.params.get(key, "")) for key in [*sweep.swept, SEED]]


def figures(sweep: Sweep, ladder: Ladder | None = None) -> dict[str, Figure]:
    found = {f"Loss against {panel.param}": _panel(sweep, panel) for panel in panels(sweep)}
    if lines := curves(sweep):
        found["All curves"] = drawn(
            lambda path, size: draw_curves(lines, path, size),
            alt=f"The validation losses of {len(lines)} runs while they trained. "
            f"{_in_order(sweep)}",
            caption="Validation loss while training, each band from the lowest to the highest seed "
            "of a setting; the fall that all share at the start is cut.",
        )
    for one in pictured(ladder, axis(sweep)):
        found[f"Loss against {one.name}"] = drawn(
            partial(draw_ladder, one), alt=one.alt, caption=one.caption
        )
    return found


def _panel(sweep: Sweep, panel: Panel) -> Figure:
    return drawn(
        lambda path, size: draw_panel(panel, path, axis(sweep), size),
        alt=_in_order(sweep),
        caption="A mark is a run, the line goes through the means; the ring is the lowest mean. "
        "A bar is the interval of a setting's gap to it: one that reaches down to the dotted line "
        "is not distinguished from the lowest.",
    )


def _in_order(sweep: Sweep) -> str:
    order = [
        f"{in_words(s.values) or 'the setting'}: {shown_number(s.mean)}"
        for s in sweep.settings[:10]
    ]
    return f"From the lowest: {'; '.join(order)}." if order else ""


def facts(sweep: Sweep) -> dict[str, str]:
    chosen = sweep.selection
    days = [datetime.fromtimestamp(t.run.started / 1000) for t in chosen.trials]
    found = {
        "Runs": f"{len(chosen.trials)}, begun {min(days):%Y-%m-%d %H:%M} to {max(days):%H:%M}",
        "Text": f"{chosen.corpus}, SHA-256 {chosen.digest}" if chosen.digest else "not known",
        "Commit": chosen.commit or "several",
        "Measure": f"{sweep.metric}, the lower the better",
    }
    if chosen.repeats:
        found["Repeats"] = f"{counted(chosen.repeats, 'older run')} with equal params left out"
    if chosen.other_text:
        found["Other texts"] = f"{counted(chosen.other_text, 'run')} on other texts left out"
    same = chosen.trials[0].run.params if chosen.trials else {}
    constant = {k: v for k, v in same.items() if k not in {*sweep.swept, SEED}}
    found["The same in all"] = ", ".join(f"{key} {shown(v)}" for key, v in constant.items())
    return found


def as_html(page: SweepPage) -> str:
    """The whole page as HTML; equal pages give equal text."""
    return template("pipeline.sweep", "sweep.html.j2").render(
        page=page, figures=numbered(page.figures)
    )


def as_markdown(page: SweepPage, picture: str | None) -> str:
    """The same in Markdown; the figures as one picture beside it, where there is one."""
    parts = [f"# {inline(page.subject)}\n", f"{inline(page.conclusion)}\n"]
    for number, one in enumerate(page.tables):
        note = [f"{inline(one.note)}\n"] if one.note else []
        numbers = {name for place, name in enumerate(one.headings) if not one.is_text(place)}
        parts += [f"## {inline(one.title)}\n", *note, table(one.headings, one.rows, numbers)]
        if number == 0 and picture is not None:
            parts.append(f"![The figures of the sweep]({picture})\n")
    parts.append("## How it was made\n")
    parts.append("".join(f"- {name}: {inline(fact)}\n" for name, fact in page.facts.items()))
    return "\n".join(parts)
