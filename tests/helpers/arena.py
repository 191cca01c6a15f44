"""The arena: each malformed input in a sandbox of its own, and what must not happen there.

A case ends well with exit status 0, 1 or 2, in bounded time and memory; where it fails, with one
printable line of at most 500 characters that names what is wrong. It leaves nothing half-written,
outputs as they were, and everything beside the repository alone.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from tests.helpers import zygote
from tests.helpers.zygote import Ended, Zygote

ONLY = "LOSSBOOK_MALFORMED"  # set: only the cases whose names hold this text
EVERY = "LOSSBOOK_MALFORMED_EVERY"  # one case of so many; 2, or 1 of those that are named
REPORT = "LOSSBOOK_MALFORMED_REPORT"  # a folder that gets what went wrong, as JSON
JOBS = "LOSSBOOK_MALFORMED_JOBS"  # at once; 2 where it is not set
# What a terminal obeys, what reorders a line, what no encoding can write.
UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
LONGEST = 500  # characters of a line that reports an error
OUTPUTS = ("data", "models", "reports", "journals")
TRACES = (
    "Traceback (most recent call last)",
    "Exception in thread",
    "Exception ignored",
    "Fatal Python error",
    "terminate called",
)

STORY = zygote.ROOT / "pipeline/corpus/texts/what-seemed-likely.txt"
PARAMS = {
    "prepare": {"corpus": "story.txt"},
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 8, "context_length": 16, "tie_weights": True},
    "train": {
        "max_steps": 3,
        "batch_size": 4,
        "eval_every": 2,
        "checkpoint_every": 2,
        "precision": "fp32",
        "device": "cpu",
    },
    "sample": {
        "prompts": ["The"],
        "max_new_tokens": 4,
        "grid": {"temperature": [0.0, 1.0], "top_k": [1, None]},
    },
    "gpt2": {"sizes": ["124M"], "source": "gpt2"},
    "compare": {"prompts": ["The"], "max_new_tokens": 2},
}
TRAIN_RUN = "reports/train_run.json"
COMMANDS: dict[str, tuple[str, ...]] = {
    "check": ("lossbook", "check"),
    "identify": ("stages.identify", "--report", "reports/identity.json", "--start",
        "reports/start.json", "--ensemble", "reports/ensemble.json"),
    "prepare": ("stages.prepare", "--corpus", "data/corpus", "--report", "reports/corpus.json"),
    "split": ("stages.split", "--corpus", "data/corpus", "--tokens", "data/tokens", "--report",
        "reports/split.json"),
    "train": ("stages.train", "--tokens", "data/tokens", "--model", "models/scratch", "--reports",
        "reports", "--journal", "journals/train"),
    "evaluate": (
        "stages.evaluate", "--tokens", "data/tokens", "--model", "models/scratch", "--parent",
        TRAIN_RUN,
        "--report", "reports/evaluate.json", "--metrics", "reports/perplexity.json",
        "--token-losses", "reports/token_losses/scratch", "--journal", "journals/evaluate",
    ),
    "sample": ("stages.sample", "--tokens", "data/tokens", "--model", "models/scratch", "--parent",
        TRAIN_RUN, "--reports", "reports", "--journal", "journals/sample"),
    "fetch_gpt2": ("stages.fetch_gpt2", "--size", "124M", "--report", "reports/gpt2/124M.json"),
    "baseline": (
        "stages.baseline", "--size", "124M", "--weights", "reports/gpt2/124M.json", "--tokens",
        "data/tokens",
        "--report", "reports/baselines/124M.json", "--token-losses",
        "reports/token_losses/124M",
        "--journal", "journals/baseline/124M",
    ),
    "compare": (
        "stages.compare", "--corpus", "reports/corpus.json", "--split", "reports/split.json",
        "--tokens", "data/tokens", "--train", "reports/train.json",
        "--history", "reports/history.csv", "--evaluate", "reports/evaluate.json", "--baselines",
        "reports/baselines",
        "--token-losses", "reports/token_losses", "--samples", "reports/sampling_grid.json",
        "--parent", TRAIN_RUN,
        "--reports", "reports", "--journal", "journals/compare",
    ),
}  # fmt: skip

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """One malformed input.

    Attributes:
        argv: what is run, as `Zygote.run` takes it.
        change: makes the repository what the case is about; gets its folder.
        names: one of these stands in the error, if there is one.
        fails: whether it must end in an error, where that is known.
        shows_text: its output is a model's text, with whatever characters a model writes.
        replaces: outputs that may be new after an error, whole ones.
        after: looks at the repository when it has ended; what is wrong.
    """

    name: str
    argv: tuple[str, ...]
    change: Change = lambda repo: None
    names: tuple[str, ...] = ()
    fails: bool | None = None
    seconds: float = 20.0
    memory: int = 2 * zygote.GIB
    environment: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    shows_text: bool = False
    replaces: tuple[str, ...] = ()
    stdin: bytes | None = None
    after: Callable[[Path], Iterable[str]] = lambda repo: ()


def swapped(path: str, content: bytes | None, odd: str = "") -> Change:
    """A change that puts something else in the file's place."""

    def change(repo: Path) -> None:
        file = repo / path
        if file.is_symlink() or file.exists():
            file.unlink()
        if content is not None:
            file.write_bytes(content)
        elif odd == "a folder":
            file.mkdir()
        elif odd == "a fifo":
            os.mkfifo(file)
        elif odd == "a link to itself":
            file.symlink_to(file.name)
        elif odd == "a broken link":
            file.symlink_to("nowhere")
        elif odd == "a device":
            file.symlink_to("/dev/zero")

    return change


ODD = ("missing", "a folder", "a fifo", "a link to itself", "a broken link", "a device")


class Arena:
    """Runs cases in copies of a repository."""

    def __init__(self, folder: Path, *modules: str) -> None:
        self.folder = folder
        self.jobs = int(os.environ.get(JOBS, "2"))
        self.took: list[tuple[float, str]] = []
        self._idle: SimpleQueue[Zygote] = SimpleQueue()
        self._all = [Zygote(*modules) for _ in range(self.jobs)]
        for one in self._all:
            self._idle.put(one)

    def close(self) -> None:
        for one in self._all:
            one.close()

    def check(self, surface: str, cases: Iterable[Case], template: Path | None) -> None:
        """Run every case, and fail with the list of those that ended badly."""
        self.took.clear()
        chosen = [case for case in cases if os.environ.get(ONLY, "") in case.name]
        chosen = chosen[:: int(os.environ.get(EVERY, "1" if ONLY in os.environ else "2"))]
        names = [case.name for case in chosen]
        assert len(set(names)) == len(names), [n for n in names if names.count(n) > 1]
        folder = self.folder / surface
        with ThreadPoolExecutor(self.jobs) as pool:
            numbered = enumerate(chosen)
            found = list(
                pool.map(lambda one: self._run(folder / f"{one[0]:04}", one[1], template), numbered)
            )
        bad = [line for line in found if line is not None]
        if place := os.environ.get(REPORT):
            slowest = sorted(self.took, reverse=True)[:20]
            report = {"cases": len(chosen), "bad": bad, "slowest": slowest}
            (Path(place) / f"{surface}.json").write_text(json.dumps(report, indent=1))
        assert not bad, _listed(surface, bad, len(chosen))

    def _run(self, place: Path, case: Case, template: Path | None) -> dict[str, object] | None:
        repo = place / "repo"
        place.mkdir(parents=True)
        for name in ("victim", "home", "cache"):
            (place / name).mkdir()
        (place / "victim/keep.txt").write_text("keep\n")
        (place / "victim/sub").mkdir()
        (place / "victim/sub/keep.bin").write_bytes(bytes(1000))
        if template is not None:
            shutil.copytree(template, place, symlinks=True, dirs_exist_ok=True)
        repo.mkdir(exist_ok=True)
        case.change(repo)
        stdin = None
        if case.stdin is not None:
            stdin = place.with_suffix(".stdin")
            stdin.write_bytes(case.stdin)
        before = listing(place)
        runner = self._idle.get()
        try:
            ended = runner.run(
                case.argv,
                repo,
                place.with_suffix(".log"),
                environment={
                    "HOME": str(place / "home"),
                    "LOSSBOOK_CACHE": str(place / "cache"),
                    "LOSSBOOK_OFFLINE": "1",
                    "TMPDIR": str(place.parent),
                    **case.environment,
                },
                seconds=case.seconds,
                memory=case.memory,
                limits=case.limits,
                mounts=case.mounts,
                stdin=stdin,
            )
        finally:
            self._idle.put(runner)
        self.took.append((ended.seconds, case.name))
        writable(place)
        faults = [*verdict(case, ended, place, before), *case.after(repo)]
        if not faults:
            shutil.rmtree(place)
            shutil.rmtree(place.with_suffix(".log"))
            return None
        return {
            "name": case.name,
            "faults": faults,
            "argv": list(case.argv),
            "folder": str(repo),
            "seconds": ended.seconds,
            "status": ended.status,
            "err": ended.err[-3000:],
        }


def _listed(surface: str, bad: list[dict[str, object]], count: int) -> str:
    lines = [f"{len(bad)} of {count} end badly; {ONLY}='NAME' runs one of them alone"]
    for one in bad:
        argv = one["argv"]
        assert isinstance(argv, list)
        lines.append(f"{one['name'][:200]!r}: {one['faults']}; cd {one['folder']}; {argv!r:.200}")
    return "\n".join(lines)


def writable(folder: Path) -> None:
    """Give back what a case has taken away, so that it can be looked at and removed."""
    for root, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(root, name)
            with suppress(OSError):  # a name that is too long
                if not path.is_symlink() and not os.access(path, os.W_OK | os.X_OK):
                    path.chmod(0o755)


Listing = dict[str, tuple[int, int, int, int]]


def listing(folder: Path) -> Listing:
    """What lies in a folder: kind, size, time and number of each file."""
    found = {}
    for root, folders, files in os.walk(os.fsencode(folder)):
        for name in (*folders, *files):
            path = os.path.join(root, name)  # noqa: PTH118 - bytes
            try:
                now = os.lstat(path)
            except OSError:  # a path beyond the system's limit
                continue
            key = os.fsdecode(os.path.relpath(path, os.fsencode(folder)))
            is_folder = stat.S_ISDIR(now.st_mode)
            size, moment = (0, 0) if is_folder else (now.st_size, now.st_mtime_ns)
            found[key] = (stat.S_IFMT(now.st_mode), size, moment, 0 if is_folder else now.st_ino)
    return found


def verdict(case: Case, ended: Ended, place: Path, before: Listing) -> Iterator[str]:
    """What is wrong with how a case ended."""
    if ended.late:
        yield f"takes longer than {case.seconds:g} s"
    elif ended.status not in (0, 1, 2):
        yield f"ends with status {ended.status}"
    if ended.peak > case.memory:
        yield f"takes {ended.peak >> 20} MiB"
    said = ended.err + ended.out
    if trace := next((t for t in TRACES if t in said), None):
        yield f"traceback: {_cause(said)}" if trace == TRACES[0] else trace
    elif not ended.late:
        yield from _complaints(case, ended)
    yield from _traces_left(case, ended, place, before)


def _cause(text: str) -> str:
    """The last line of a traceback, and the last line of ours that it names."""
    ours = re.findall(r'File ".*?/((?:pipeline|stages)/[^"]+)", line (\d+)', text)
    last = [
        line
        for line in text.strip().splitlines()
        if re.match(r"[\w.]+(Error|Exception|Exit|Interrupt|\w+): ?|\w+Error$", line)
    ]
    where = ":".join(ours[-1]) if ours else "?"
    return f"{(last or ['?'])[-1][:160]} ({where})"


def _complaints(case: Case, ended: Ended) -> Iterator[str]:
    if case.fails is True and ended.status == 0:
        yield "is taken for right"
    if case.fails is False and ended.status != 0:
        yield "is refused"
    shown = ended.err if case.shows_text and ended.status == 0 else ended.err + ended.out
    if odd := set(UNSEEN.findall(shown)):
        yield f"writes {sorted(map(ascii, odd))[:5]}"
    if ended.status not in (1, 2):
        return
    found = re.search(r"(?:^|[\r\n])Error: (.*)", ended.err, re.DOTALL)
    if not found:
        yield "ends without a line that says why"
        return
    message = found[1].rstrip("\n")
    lines = message.split("\n")
    if len(lines) > 1 and not re.search(r" has [\d,]+ problems?$", lines[0]):
        yield f"says why in {len(lines)} lines"
    if len(lines) > 300:
        yield f"lists {len(lines)} problems"
    if longest := max((len(line) for line in lines if len(line) > LONGEST), default=0):
        yield f"says why in {longest} characters"
    if case.names and not any(name in message for name in case.names):
        yield f"names none of {', '.join(case.names)[:120]}: {message.strip()[:200]}"


def _traces_left(case: Case, ended: Ended, place: Path, before: Listing) -> Iterator[str]:
    after = listing(place)
    for name in sorted(before.keys() | after.keys()):
        top, _, inner = name.partition("/")
        kept = name.startswith("cache/gpt2/")  # a download goes on from there
        if re.search(r"\.(part|old)$", name) and name not in before and not (kept or ended.late):
            yield f"leaves {name}"
        elif top in ("victim",) or (top not in ("repo", "cache", "home")):
            if before.get(name) != after.get(name):
                yield f"touches {name} outside"
        elif inner in ("X", "X#") and name not in before:
            yield "runs a command of its input"
        elif inner.partition("/")[0] in OUTPUTS and before.get(name) != after.get(name):
            yield from _output(case, ended, place / name, inner, name in before, name in after)


def _output(
    case: Case, ended: Ended, path: Path, inner: str, was: bool, is_: bool
) -> Iterator[str]:
    allowed = any(inner == one or inner.startswith(f"{one}/") for one in case.replaces)
    if ended.status != 0 and not allowed and not path.is_dir():
        yield f"fails, and {'changes' if was and is_ else 'writes' if is_ else 'removes'} {inner}"
    if is_ and path.suffix == ".json" and path.is_file():
        try:
            json.loads(path.read_bytes(), parse_constant=_refuse)
        except ValueError as error:
            yield f"writes {inner}, which is no JSON ({error})"


def _refuse(word: str) -> None:
    raise ValueError(word)
