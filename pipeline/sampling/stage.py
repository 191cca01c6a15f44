"""The sample stage: draw the grid of samples from the trained model, measure, write and log it."""

from __future__ import annotations

from pathlib import Path

from pipeline.model.runtime import choose_runtime
from pipeline.model.saved import load_model
from pipeline.numbers import counted
from pipeline.params import Params, Sample, flatten, load_params
from pipeline.reports import Diversity, FullSampleReport, SampleMetrics
from pipeline.sampling.grid import Cell, SamplingGrid, sample_grid, tokens_to_draw
from pipeline.sampling.judge import gpt2_judge
from pipeline.sampling.markdown import draw, markdown
from pipeline.system.files import write_text
from pipeline.system.progress import Progress
from pipeline.tokens.windows import Tokens
from pipeline.tracking.open_run import Run
from pipeline.tracking.run import run_name, start_run

GRID_FIGURE, NEXT_TOKEN_FIGURE = "samples_grid.png", "samples_next_token.png"


def sample(
    params_file: Path, tokens: Path, folder: Path, parent: Path, reports: Path, journal: Path
) -> None:
    """Run the stage.

    Args:
        tokens: the folder of train/ and val/ tokens.
        folder: the trained model's.
        parent: the train stage's run record.
        reports: the folder to write to.
        journal: the folder of the run's journal to write.

    Raises:
        UserError: an input is missing or damaged, or the model's logits are not finite.
    """
    params = load_params(params_file)
    settings = flatten(params.sample, "sample.")
    always = ["sample.temperature", "sample.top_k"]
    defaults = flatten(Sample(prompts=params.sample.prompts), "sample.")
    corpus = Tokens.open(tokens / "train")
    with start_run(
        "sample",
        experiment=params.tracking.experiment,
        parent=parent,
        journal=journal,
        name=run_name(settings, defaults, always),
        description=introduction(params.sample),
        params=settings,
    ) as run:
        grid = draw_samples(params, folder, corpus)
        report = write(reports, grid)
        log(run, reports, grid, report)
        run.describe(f"{introduction(params.sample)}\n\n{as_list(grid.diversity())}")


def draw_samples(params: Params, folder: Path, corpus: Tokens) -> SamplingGrid:
    """The samples of the folder's model, measured."""
    runtime = choose_runtime()
    model = load_model(folder).to(runtime.device)
    with (
        Progress(tokens_to_draw(params.sample), "draw", unit="token", speed=True) as drawing,
        Progress(len(corpus), "look for copies", unit="training token") as comparing,
    ):
        return sample_grid(
            model,
            params.sample,
            corpus,
            judge=gpt2_judge(params.gpt2, runtime, comparing.say),
            progress=drawing.advance,
            corpus_progress=comparing.advance,
        )


def introduction(settings: Sample) -> str:
    """What the run does, in Markdown."""
    top_k = "all tokens" if settings.top_k is None else f"the {settings.top_k} likeliest tokens"
    grid = len(settings.grid.temperature) * len(settings.grid.top_k)
    return (
        f"Samples of {counted(settings.max_new_tokens, 'token')} from "
        f"{counted(len(settings.prompts), 'prompt')}, at "
        f"temperature {settings.temperature:g} over {top_k}, and over a grid of "
        f"{counted(grid, 'setting')}."
    )


def as_list(diversity: Diversity) -> str:
    """The headline metrics of the chosen setting, in Markdown."""
    metrics = diversity.model_dump().items()
    return "\n".join(f"- {name.replace('_', ' ')}: {value:.4g}" for name, value in metrics)


def write(reports: Path, grid: SamplingGrid) -> FullSampleReport:
    """Write the figures and the Markdown; the JSON last, as the mark that the rest is there.

    Returns:
        The content of `samples.json`, its numbers rounded.
    """
    report = FullSampleReport.model_validate(grid.report().model_dump())
    draw(report, reports / GRID_FIGURE, reports / NEXT_TOKEN_FIGURE)
    write_text(reports / "samples.md", markdown(report, GRID_FIGURE, NEXT_TOKEN_FIGURE))
    grid.diversity().write(reports / "diversity.json")
    grid.grid_report().write(reports / "sampling_grid.json")
    report.write(reports / "samples.json")
    return report


def log(run: Run, reports: Path, grid: SamplingGrid, report: FullSampleReport) -> None:
    """The same for MLflow: metrics of each cell, a table by which runs are compared, the files."""
    run.log_metrics(numbers("chosen", grid.chosen))
    for cell in grid.cells:
        top_k = "all" if cell.sampling.top_k is None else cell.sampling.top_k
        place = f"grid/t{cell.sampling.temperature:g}-k{top_k}"
        run.log_metrics(numbers(place, cell))
    run.log_samples([{**sample.model_dump(), "weights": "last"} for sample in report.samples])
    rows = [sample.model_dump(exclude={"copies"}) for sample in report.samples]
    run.log_table(rows, "samples_measured.json")
    for name in (GRID_FIGURE, NEXT_TOKEN_FIGURE):
        run.log_artifact(reports / name, "figures")
    run.log_artifact(reports / "samples.md")


def numbers(prefix: str, cell: Cell) -> dict[str, float]:
    """A cell's metrics for MLflow, rounded as in the reports."""
    metrics = SampleMetrics(**cell.metrics).model_dump()
    return {f"{prefix}/{name}": value for name, value in metrics.items() if value is not None}
