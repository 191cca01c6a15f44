"""fetch_gpt2, through its command: available, or unavailable in words and the pipeline goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.gpt2.release import FILES
from stages.fetch_gpt2 import main
from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.helpers.hostile import Hostile

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    folder = write_checkpoint(tmp_path_factory.mktemp("tiny"), TINY)
    with Hostile.running() as server:
        for name in FILES:
            server.files[f"/models/124M/{name}"] = (folder / name).read_bytes()
        yield server


@pytest.fixture
def run(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: Hostile) -> Run:
    monkeypatch.chdir(tmp_path)

    def run(size: str = "124M", **settings: object) -> Result:
        settings = {"mirror": f"{mirror.address}/models", **settings}
        Path("params.yaml").write_text(json.dumps({"gpt2": settings}))
        return CliRunner().invoke(main, ["--size", size, "--report", f"reports/gpt2/{size}.json"])

    return run


def report(size: str = "124M") -> dict:
    return json.loads(Path(f"reports/gpt2/{size}.json").read_text())


def test_brings_a_size_and_says_so(
    run: Run, mirror: Hostile, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the reading in a process of its own, as always, where TensorFlow says nothing."""
    done = run()
    assert done.exit_code == 0, done.output
    assert capfd.readouterr() == ("", "")
    assert done.stdout == "GPT-2 124M: 0.00 GB, from mirror\n"
    assert (report()["status"], list(report()["files"])) == ("available", list(FILES))
    first, requests = Path("reports/gpt2/124M.json").read_bytes(), len(mirror.requests)
    assert run().exit_code == 0
    assert Path("reports/gpt2/124M.json").read_bytes() == first
    assert len(mirror.requests) == requests


def test_what_cannot_be_had_is_told_and_the_pipeline_goes_on(run: Run) -> None:
    done = run(mirror="http://127.0.0.1:1")
    reason = "127.0.0.1 cannot be reached (Connection refused)"
    assert done.exit_code == 0
    assert done.stderr == f"GPT-2 124M: not fetched: {reason}\n"
    assert report() == {
        "model": "124M",
        "status": "unavailable",
        "reason": reason,
        "source": "mirror",
        "files": {},
    }


def test_a_size_that_is_not_asked_for_is_not_fetched(run: Run, mirror: Hostile) -> None:
    """dvc.yaml has a stage for every size, whatever `gpt2.sizes` says."""
    requests = len(mirror.requests)
    done = run(sizes=["355M"], required=True)
    assert done.exit_code == 0
    assert done.stderr == "GPT-2 124M: not fetched: gpt2.sizes does not name it\n"
    assert report()["status"] == "unavailable"
    assert len(mirror.requests) == requests


def test_what_is_required_and_cannot_be_had_is_an_error(run: Run) -> None:
    done = run(mirror="http://127.0.0.1:1", required=True)
    assert done.exit_code == 1
    assert done.stderr == (
        "Error: GPT-2 124M cannot be had, and gpt2.required is true: "
        "127.0.0.1 cannot be reached (Connection refused)\n"
    )
    assert not Path("reports").exists()


def test_reports_hold_no_path(run: Run, tmp_path: Path) -> None:
    Path("weights").mkdir()
    for settings in ({"source": str(tmp_path / "weights")}, {"source": "weights"}):
        run(mirror=None, **settings)
        assert report()["source"] == "local"
        assert str(tmp_path) not in Path("reports/gpt2/124M.json").read_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mirror": None, "source": "openia"}, "gpt2.source: 'openia' is neither openai nor hugg"),
        ({"mirror": None, "source": "~nosuchuser"}, "'~nosuchuser' is not a path"),
        ({"mirror": "http://host:port"}, "is no URL such as"),
        ({"sha256": {"124M": "0" * 64}}, "gpt2.sha256: 124M is to be 0000"),
        ({"sha256": {"124M": "abc"}}, "gpt2.sha256"),
        ({"sha256": {"125M": "0" * 64}}, "gpt2.sha256"),
        ({"mirror": "ftp://x"}, "gpt2.mirror: 'ftp://x' must start with http:// or https://"),
        ({"source": "huggingface"}, "gpt2.mirror stands in for OpenAI's address"),
        ({"sources": "openai"}, "gpt2.sources: unknown key; did you mean `source`?"),
    ],
)
def test_settings_that_cannot_be_right(
    settings: dict, message: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a reading of the weights would find."""
    monkeypatch.setattr("pipeline.gpt2.fetch.verify_apart", lambda *_: None)
    done = run(**settings)
    assert done.exit_code == 1
    assert message in done.output
    assert not Path("reports").exists()


def test_an_unknown_size(run: Run) -> None:
    done = run("125M")
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: GPT-2 has no size 125M; its sizes are 124M, 355M, 774M")
