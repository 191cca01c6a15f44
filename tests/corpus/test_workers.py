"""Who does the work changes no byte: threads, processes, a cluster, and one whose worker dies."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.corpus import parquet, partition, workers
from pipeline.corpus.corpora import prepare
from pipeline.corpus.documents import Document
from pipeline.corpus.parquet import CorpusWriter
from pipeline.corpus.workers import start_workers
from pipeline.errors import UserError
from pipeline.params import Prepare
from pipeline.split.split import split
from pipeline.system.files import folder_aside

if TYPE_CHECKING:
    from distributed import Client

HANGS = 12  # the part in which the first worker that takes it stays until it is killed


def double(number: int) -> int:
    time.sleep(0.001 * (number % 3))
    return 2 * number


def test_results_come_in_order() -> None:
    with start_workers("threads", threads=4) as pool:
        assert list(pool.in_order(double, range(50))) == list(range(0, 100, 2))


def test_few_parts_are_taken_before_they_are_needed() -> None:
    taken: list[int] = []

    def parts() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    with start_workers("threads", threads=2) as pool:
        results = pool.in_order(double, parts())
        assert next(results) == 0
        assert len(taken) == 5  # two for each thread wait, and the one that was read
        assert next(results) == 2
        assert len(taken) == 6


def test_a_part_that_fails_ends_the_work() -> None:
    done = threading.Event()

    def fail(number: int) -> int:
        if number == 3:
            raise UserError("part 3 is wrong")
        if number > 30:
            done.set()
        return number

    with (
        pytest.raises(UserError, match="part 3 is wrong"),
        start_workers("threads", threads=2) as pool,
    ):
        for _ in pool.in_order(fail, range(1000)):
            pass
    assert not done.is_set()


def process_of(_part: object) -> int:
    return os.getpid()


def test_auto_takes_threads_for_small_corpora() -> None:
    with start_workers("auto", size=10**6, threads=3) as pool:
        assert set(pool.in_order(process_of, range(9))) == {os.getpid()}


def test_no_cluster_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "CONNECT", 0.5)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        said = f"prepare.scheduler: .* at {address}"
        with pytest.raises(UserError, match=said), start_workers(address):
            pass


def write_corpus(folder: Path) -> Path:
    with folder_aside(folder) as aside:
        writer = CorpusWriter(aside)
        for number in range(60):
            text = f"Document {number} was née of words.\n" * (number * 7 % 40 + 1)
            writer.write(Document(f"id{number}", "", f"{number}.txt", [text, "", text]))
        writer.close("mine")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def two_processes() -> Iterator[tuple[str, Client]]:
    """A cluster's address, and a client that is not the one under test."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            memory_limit=0,
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster.scheduler_address, client


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds, or for so long that it never will."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def noted(number: int, notes: Path) -> int:
    """The number, once it is noted who works on it."""
    is_first = not any(n == number for n, _ in read_notes(notes))
    with open(notes, "a") as file:
        file.write(f"{number} {os.getpid()}\n")
    if number == HANGS and is_first:
        time.sleep(600)
    return number


def read_notes(notes: Path) -> list[tuple[int, int]]:
    """Part and process, in the order in which parts were begun."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    return [(int(number), int(pid)) for number, pid in map(str.split, lines)]


def test_a_killed_worker_costs_the_part_that_it_was_at(tmp_path: Path) -> None:
    """Results that wait for their turn to be written are not the worker's any more."""
    notes = tmp_path / "notes"
    read: list[int] = []
    with two_processes() as (address, client), start_workers(address) as pool:

        def kill(pid: int) -> None:
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: pid not in client.run(os.getpid, on_error="ignore").values())

        for number in pool.in_order(partial(noted, notes=notes), range(20)):
            read.append(number)
            if number == 0:  # kill one that is idle, whose results are waiting
                wait_for(lambda: len(read_notes(notes)) == 5 and is_idle(client))
                kill(read_notes(notes)[-1][1])
            if number == HANGS - 1:  # and one at work
                wait_for(lambda: HANGS in dict(read_notes(notes)))
                kill(dict(read_notes(notes))[HANGS])
    assert read == list(range(20))
    done = Counter(number for number, _ in read_notes(notes))
    assert done == Counter(range(20)) + Counter([HANGS])


def is_idle(client: Client) -> bool:
    """Whether nothing is worked on, and nothing done waits on a worker."""
    return not any((*client.processing().values(), *client.has_what().values()))


def die(_part: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_part_that_kills_its_workers_is_the_users_to_mend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "DEATHS", 1)
    said = r"prepare\.scheduler: 2 workers died at the same part, the last at tcp://127\.0\.0\.1:"
    with pytest.raises(UserError, match=said), start_workers("processes") as pool:
        for _ in pool.in_order(die, range(3)):
            pass


def test_a_cluster_whose_worker_is_killed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two worker processes prepare; one of them is killed after the first part of the split."""
    lines = [json.dumps({"text": "née of words. " * (n * 7 % 40 + 1)}) for n in range(90)]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    settings = Prepare(corpus=str(tmp_path / "mine.jsonl"), scheduler="threads")
    monkeypatch.setattr(parquet, "GROUP", 1000)
    corpus = tmp_path / "corpus"
    prepared = prepare(settings, corpus)
    expected = split(corpus, tmp_path / "threads", 0.5, 0.25)
    monkeypatch.setattr(partition, "WHOLE", 0)
    monkeypatch.setattr(partition, "PART", 2000)
    killed: list[int] = []

    with two_processes() as (address, client):
        pids = list(client.run(os.getpid).values())

        def kill(characters: int) -> None:
            if not killed:
                killed.append(pids[0])
                os.kill(pids[0], signal.SIGKILL)

        there = settings.model_copy(update={"scheduler": address})
        assert prepare(there, tmp_path / "prepared") == prepared
        report = split(corpus, tmp_path / "cluster", 0.5, 0.25, scheduler=address, progress=kill)
        assert pids[0] not in client.run(os.getpid).values()
    assert killed
    assert report == expected
    assert content(tmp_path / "cluster") == content(tmp_path / "threads")
    assert content(tmp_path / "prepared") == content(corpus)


@pytest.mark.slow
def test_processes_of_its_own_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "GROUP", 1000)
    monkeypatch.setattr(workers, "LARGE", 1)
    corpus = write_corpus(tmp_path / "corpus")
    expected = split(corpus, tmp_path / "threads", 0.5)
    assert split(corpus, tmp_path / "processes", 0.5, scheduler="auto") == expected
    assert content(tmp_path / "processes") == content(tmp_path / "threads")


@pytest.mark.parametrize(
    "address",
    [
        "tcp://",
        "tcp://10.0.0.5",
        "tcp://[::1",
        "tcp://host:abc",
        "tcp://host:99999",
        "tcp://" + "a" * 400 + ":1",
        "tcp://..:1",
    ],
)
def test_an_address_that_can_be_none_is_refused_at_once(address: str) -> None:
    said = r"^prepare\.scheduler: .* such as tcp://10\.0\.0\.5:8786$"
    with pytest.raises(UserError, match=said), start_workers(address):
        pass
