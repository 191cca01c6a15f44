"""Journals that are damaged, or that somebody made to do harm: nothing outside is touched, nothing
stops, and each is named."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.tracking import paths
from pipeline.tracking.artifacts import locate
from pipeline.tracking.journal import DAMAGED, JOURNAL, read_header, read_run
from pipeline.tracking.journals import adopt, entries, rows
from pipeline.tracking.lifecycle import hand_over, reap
from pipeline.tracking.mlflow.store import Store
from pipeline.tracking.mlflow.sync import gather, synced
from pipeline.tracking.run import start_run

HEADER: dict[str, Any] = {"run": "k", "stage": "train", "experiment": "e", "name": "n"}
NAMES = ["../../../victim", "/tmp/victim", "..", "a/b", "", ".hidden", "x" * 200, "a'b", "a\nb"]


def line(**event: Any) -> bytes:
    return json.dumps({"t": 1, **event}).encode() + b"\n"


def write(folder: Path, *lines: bytes, **header: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    content = b"".join([line(create={**HEADER, **header}), *lines])
    (folder / JOURNAL).write_bytes(content)
    return folder


def lossbook(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def victim(offline: Path) -> Path:
    """A folder beside the repository."""
    folder = offline.parent / "victim"
    folder.mkdir()
    (folder / "precious").write_text("p")
    return folder


def test_journals_whose_names_lead_elsewhere_are_left_where_they_are(
    offline: Path, victim: Path
) -> None:
    cases = [(key, name) for key in ("run", "stage", "state", "parent") for name in NAMES]
    for number, (key, name) in enumerate(cases):
        write(offline / "journals" / f"x{number}", line(end="FINISHED"), **{key: name})
        write(paths.states() / f"y{number}", **{key: name})
    said: list[str] = []
    assert adopt(Path("journals"), said.append) == []
    assert reap() == []
    with start_run("train", experiment="e", state=paths.state_folder("train", "1")):
        pass
    assert (victim / "precious").read_text() == "p"
    assert {path.name for path in offline.parent.iterdir()} == {"repo", "victim"}
    assert len(list(paths.journals().iterdir())) == 1
    assert len(list(paths.states().glob(f"y*/{JOURNAL}"))) == len(cases)
    assert len(said) == len(cases)


ARTIFACT = {"path": "a", "sha256": "0" * 64, "bytes": 1}
ON = {"name": "a/val", "digest": "0", "metrics": {"val_loss": 1.0}}
MEASURED: dict[str, Any] = {"weights": "0" * 64, "losses": [ON]}


def losses_on(**changes: Any) -> dict[str, Any]:
    return {**MEASURED, "losses": [{**ON, **changes}]}


BAD_LINES = {
    "no JSON": b"{\n",
    "zeros": b"\0\0\0\n",
    "a list": b"[1]\n",
    "deep": b"[" * 100_000 + b"\n",
    "deep inside": b'{"t":1,"params":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}\n",
    "no time": b'{"end":"FINISHED"}\n',
    "digits": b'{"t":' + b"9" * 5000 + b',"end":"FINISHED"}\n',
    "a time without end": line(t=10**18, end="FINISHED"),
    "a time before": line(t=-1, end="FINISHED"),
    "a step of text": line(s="one", m={"a": 1.0}),
    "no step": line(m={"a": 1.0}),
    "a step without end": line(s=2**63, m={"a": 1.0}),
    "a metric of text": line(s=1, m={"a": "much"}),
    "metrics in a list": line(s=1, m=[1]),
    "a null metric": line(s=1, m={"a": None}),
    "a param of a list": line(params={"a": []}),
    "tags of a list": line(tags=["a"]),
    "half a surrogate": b'{"t":1,"tags":{"a":"\\ud800"}}\n',
    "another end": line(end="WON"),
    "an input of nothing": line(input={}),
    "an artifact above": line(artifact={**ARTIFACT, "path": "../../x"}),
    "an absolute artifact": line(artifact={**ARTIFACT, "path": "/etc/passwd"}),
    "an artifact of no name": line(artifact={**ARTIFACT, "path": "."}),
    "an artifact too long": line(artifact={**ARTIFACT, "path": "x" * 300}),
    "a hash that leads elsewhere": line(artifact={**ARTIFACT, "md5": "../../../../etc/passwd"}),
    "a model of nothing": line(model={"name": "x"}),
    "losses of nothing": line(measured={}),
    "losses of a name": line(measured={**MEASURED, "weights": "' OR 1=1"}),
    "losses on nothing": line(measured={**MEASURED, "losses": [{"name": "a"}]}),
    "losses of text": line(measured=losses_on(metrics={"val_loss": "low"})),
    "losses of a model with quotes": line(
        measured={**MEASURED, "external": {"name": "a' AND 'b", "params": {}}}
    ),
    "losses of a model of lists": line(
        measured={**MEASURED, "external": {"name": "a", "params": {"a": []}}}
    ),
}


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_of_another_shape_is_no_event(tmp_path: Path, bad: bytes) -> None:
    good = line(s=1, m={"loss": 2.0})
    run = read_run(write(tmp_path, bad, good, bad, line(end="FINISHED")))
    assert run is not None
    assert (run.status, run.metrics["loss"].value, run.passed_over) == ("FINISHED", 2.0, [2, 4])


def test_lines_that_are_no_events_are_left_out_and_counted(offline: Path) -> None:
    folder = write(paths.journals() / "train-k", *BAD_LINES.values(), line(end="FINISHED"))
    done = lossbook("runs")
    assert (done.exit_code, "FINISHED" in done.stdout) == (0, True)
    assert done.stderr == (
        f"warning: {folder / JOURNAL}: line 2 and {len(BAD_LINES) - 1} more left out, for no run "
        "writes such\n"
    )


@pytest.mark.parametrize(
    "content",
    [b"\0\n", b"[]\n", line(end="FINISHED"), line(create={"run": "k"}), b"[" * 10**5 + b"\n"],
)
def test_a_journal_that_does_not_begin_as_one_is_left_out_and_named(
    repo: Path, store: Store, content: bytes
) -> None:
    for folder in (paths.journals() / "bad", paths.states() / "bad", repo / "journals" / "bad"):
        folder.mkdir(parents=True)
        (folder / JOURNAL).write_bytes(content)
    with start_run("train", experiment="e") as run:
        run.log_metrics({"loss": 1.0})
    for command, times in (("runs", 2), ("sync", 3), ("reap", 2)):
        done = lossbook(command)
        assert done.exit_code == 0, done.output
        assert done.stderr.count("does not begin with a line that names its run") == times, command
    assert [entry.run.key for entry in entries()] == [run.key]


def test_a_training_goes_on_after_its_own_journal_was_damaged(
    offline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = paths.state_folder("train", "1")
    state.mkdir(parents=True)
    (state / JOURNAL).write_bytes(b"\0\0\n" + line(s=1, m={"loss": 1.0}))
    with start_run("train", experiment="e", state=state) as run:
        run.log_metrics({"loss": 1.0}, step=1)
    (folder,) = paths.journals().iterdir()
    assert (folder / DAMAGED).exists()
    assert capsys.readouterr().err.count("\n") == 1


def test_what_links_out_of_a_journal_is_not_taken_in(offline: Path, victim: Path) -> None:
    secret = victim / "precious"
    for name in ("file", "folder", "journal"):
        folder = write(offline / "journals" / name, run=name)
        (folder / "artifacts").mkdir()
        if name == "journal":
            shutil.move(folder / JOURNAL, victim / JOURNAL)
            (folder / JOURNAL).symlink_to(victim / JOURNAL)
        elif name == "folder":
            (folder / "artifacts" / "all").symlink_to(victim)
        else:
            (folder / "artifacts" / "one").symlink_to(secret)
    said: list[str] = []
    (taken,) = adopt(Path("journals"), said.append)
    assert {path.name for path in taken.rglob("*") if path.is_file()} == {JOURNAL, "exited"}
    assert [text.partition(": ")[0] for text in said] == [
        "journals/file/artifacts/one",
        f"journals/journal/{JOURNAL}",
    ]
    linked = write(paths.journals() / "train-k") / "artifacts" / "a"
    linked.parent.mkdir()
    linked.symlink_to(secret)
    assert locate(linked.parents[1], {"path": "a", "sha256": "0" * 64, "bytes": 1}) is None


def test_what_dvc_links_to_its_cache_is_taken_in(offline: Path) -> None:
    cached = paths.dvc_cached("0" * 32)
    cached.parent.mkdir(parents=True)
    folder = write(offline / "journals" / "train")
    shutil.move(folder / JOURNAL, cached)
    (folder / JOURNAL).symlink_to(cached)
    (taken,) = adopt(Path("journals"))
    assert not (taken / JOURNAL).is_symlink()


def test_runs_that_call_each_other_parents_are_listed(offline: Path) -> None:
    for key, parent in (("a", "b"), ("b", "a"), ("c", "c"), ("d", None)):
        write(paths.journals() / f"train-{key}", run=key, parent=parent)
    assert sorted(row.key for row in rows(offline)) == ["a", "b", "c", "d"]
    for number in range(3000):
        write(paths.journals() / f"n-{number}", run=f"n{number}", parent=f"n{number - 1}")
    assert len(rows(offline)) == 3004


def test_what_a_terminal_would_obey_is_shown(offline: Path) -> None:
    write(paths.journals() / "train-k", name="\x1b[2Jgone\nagain", experiment="\x07")
    done = lossbook("runs")
    assert r"\x1b[2Jgone\nagain" in done.stdout
    assert "\x1b" not in done.stdout


def test_texts_that_no_encoding_can_write_are_journalled(offline: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    with start_run("train", experiment=odd, name=odd, params={"corpus": odd}) as run:
        run.log_input(odd, odd, "0")
        run.log_text(odd, "a.md")
        run.set_tags({"a": odd})
    (entry,) = entries()
    assert entry.run.params == {"corpus": r"caf\udce9"}


def test_a_full_disk_loses_nothing(offline: Path) -> None:
    """The kernel refuses files above a size, as it does on a full disk."""
    folder = write(paths.states() / "train-1", *[line(s=s, m={"loss": 1.0}) for s in range(1000)])
    before = (folder / JOURNAL).read_bytes()
    write(offline / "handed")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError) as error:
            hand_over(folder, offline / "handed")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert str(error.value).startswith(f"{offline / 'handed'}: File too large; the run's journal")
    assert (folder / JOURNAL).read_bytes() == before
    assert [path.name for path in (offline / "handed").iterdir()] == [JOURNAL]
    assert not list(offline.glob(".handed*"))


LIMIT = 500  # characters of an experiment's name in MLflow


def test_a_run_that_the_store_refuses_holds_up_no_other(repo: Path, store: Store) -> None:
    folder = paths.journals()
    write(folder / "train-a", line(end="FINISHED"), run="a", experiment="x" * (LIMIT + 1))
    write(folder / "train-b", line(end="FINISHED"), run="b", experiment='it\'s "both"')
    write(folder / "train-c", line(params={"p": "x" * 9000}), line(end="FINISHED"), run="c")
    write(folder / "train-d", line(tags={"t" * 300: "x"}), line(end="FINISHED"), run="d")
    write(folder / "train-e", line(s=1, m={"bad@name": 1.0}), line(end="FINISHED"), run="e")
    write(folder / "train-f", line(end="FINISHED"), run="f", name="x" * 9000)
    named = {"name": "x" * 9000, "params": {"p" * 900: "x" * 9000}}
    bad = {**losses_on(name="x" * 9000, metrics={"bad@name": 1.0}), "external": named}
    write(folder / "train-g", line(measured=bad), line(end="FINISHED"), run="g")
    write(folder / "train-h", line(measured=MEASURED), line(end="FINISHED"), run="h", parent="h")
    found = {one.entry.run.key: one for one in synced(gather(Path("journals")))}
    assert {key: one.outcome for key, one in found.items()} == {
        "a": "refused",
        **dict.fromkeys("bcdefgh", "sent"),
    }
    assert [len(found[key].remarks) for key in "adegh"] == [1, 1, 1, 1, 1]
    done = lossbook("sync")
    assert done.exit_code == 1
    assert done.stdout.count("there: ") == 7
    (refused,) = [text for text in done.stdout.splitlines() if text.startswith("refused")]
    assert refused.startswith("refused: n (a): ")
    assert "500" in refused
    assert done.stderr == "Error: 1 of 8 runs refused; their journals are kept\n"


def test_a_pipe_in_a_journals_place_hangs_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / JOURNAL)
    with pytest.raises(UserError, match="not a regular file"):
        read_run(tmp_path)
    assert read_header(tmp_path) is None
