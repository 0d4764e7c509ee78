"""Many requests at once: one is at work, the others see their place, and clients that leave free it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from inpaint_support import smooth_picture, square_hole
from serve_support import Client, by_command, multipart, png, serving

from pconv_cuda.serve import work

HOLE = square_hole(40, 50, 10, 15, 8)
MASK = png(HOLE)
PHOTO = png(smooth_picture(40, 50))


class Gate:
    """Stands before the work: how many are in it at the same time, and a door that can be shut."""

    def __init__(self, real: Callable) -> None:
        self.real, self.door = real, threading.Event()
        self.door.set()
        self.inside, self.most, self.begun, self.ended = 0, 0, 0, 0

    def __call__(self, job, filler, rule, report, *rest) -> None:
        self.inside += 1
        self.begun += 1
        self.most = max(self.most, self.inside)
        try:
            for piece in range(1, 2000):  # as long as the door is shut
                report.progress(piece, 2000)
                if self.door.wait(0.01):
                    break
            self.real(job, filler, rule, report, *rest)
        finally:
            self.inside -= 1
            self.ended += 1


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(work.run_job)
    monkeypatch.setattr(work, "run_job", gate)
    return gate


def state(client: Client, key: str) -> dict:
    return json.loads(client.get(f"/queue?id={key}").content)


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)


@contextlib.contextmanager
def sent(client: Client, key: str) -> Iterator:
    """A request whose answer has not been read yet, at its place in the queue."""
    body, kind = multipart({"picture": PHOTO, "mask": MASK, "id": key})
    with contextlib.closing(client.connect()) as connection:
        connection.request("POST", "/inpaint", body, {"Content-Type": kind})
        until(lambda: "place" in state(client, key), "it never came into the queue")
        yield connection


def test_concurrent_requests_are_served_one_by_one_and_none_is_mixed_up(gate: Gate, tmp_path: Path) -> None:
    cases = []
    for number in range(8):
        picture = png(smooth_picture(30 + number, 50, number))
        mask = png(square_hole(30 + number, 50, 3 + number, 5, 9))
        cases.append((picture, mask, by_command(tmp_path / str(number), "a.png", picture, mask)))
    gate.most = 0
    with serving() as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda case: client.post("/inpaint", picture=case[0], mask=case[1]), cases * 3))
    assert [answer.content == case[2] for answer, case in zip(answers, cases * 3, strict=True)] == [True] * 24
    assert gate.most == 1


def test_waiting_clients_see_their_place_and_the_progress(gate: Gate) -> None:
    gate.door.clear()
    with serving() as client, sent(client, "number-1") as first, sent(client, "number-2") as second:
        with sent(client, "number-3") as third:
            assert [state(client, f"number-{k}")["place"] for k in (1, 2, 3)] == [0, 1, 2]
            until(lambda: state(client, "number-1")["done"] > 2, "no progress")
            assert state(client, "number-1")["total"] == 2000 and state(client, "number-2")["total"] == 0
            assert state(client, "number-9") == {"length": 3} and state(client, "") == {"length": 3}
            taken = client.post("/inpaint", picture=PHOTO, mask=MASK, id="number-2")
            assert taken.status == 409 and "fresh" in taken.error
            gate.door.set()
            assert [connection.getresponse().status for connection in (first, second, third)] == [200] * 3
        until(lambda: state(client, "number-3") == {"length": 0}, "the queue is not empty")


def test_a_full_queue_says_so(gate: Gate) -> None:
    gate.door.clear()
    with serving(waiting=2) as client, sent(client, "number-1"), sent(client, "number-2"):
        answer = client.post("/inpaint", picture=PHOTO, mask=MASK)
        assert answer.status == 503 and "2 pictures wait" in answer.error and answer.headers["Retry-After"] == "30"
        assert client.post("/preview", picture=PHOTO).status == 200  # looking does not wait for filling
        gate.door.set()


def test_a_waiting_client_that_leaves_frees_its_place(gate: Gate) -> None:
    gate.door.clear()
    with serving() as client, sent(client, "number-1") as first:
        with sent(client, "number-2"), sent(client, "number-3") as third:
            assert state(client, "number-3")["place"] == 2
            third.sock.close() if third.sock else None
            third.close()
            until(lambda: "place" not in state(client, "number-3"), "it still waits")
            assert state(client, "number-2") == {"length": 2, "place": 1, "done": 0, "total": 0}
        until(lambda: state(client, "number-1")["length"] == 1, "the second still waits")
        gate.door.set()
        assert first.getresponse().status == 200
    assert gate.begun == 1


def test_work_ends_when_its_client_leaves(gate: Gate, tmp_path: Path) -> None:
    gate.door.clear()
    with serving() as client:
        with sent(client, "number-1"):
            until(lambda: gate.begun == 1, "it does not begin")
        until(lambda: gate.ended == 1, "it goes on without a client")
        gate.door.set()
        answer = client.post("/inpaint", picture=PHOTO, mask=MASK)
    assert answer.content == by_command(tmp_path, "a.png", PHOTO, MASK)


def test_an_error_in_the_work_leaves_the_queue_in_order(gate: Gate, monkeypatch, capsys) -> None:
    with serving() as client:
        for error, status, words in (
            (RuntimeError("a defect"), 500, "its terminal says more"),
            (MemoryError(), 503, "out of memory"),
            (OSError(28, "No space left on device", "/secret/path"), 507, "the disk is full"),
        ):

            def fails(*_, error=error) -> None:
                raise error

            monkeypatch.setattr(gate, "real", fails)
            answer = client.post("/inpaint", picture=PHOTO, mask=MASK)
            assert (answer.status, words in answer.error) == (status, True), answer.content
            assert "secret" not in answer.error
        assert json.loads(client.get("/queue").content) == {"length": 0}
    assert "a defect" in capsys.readouterr().err


def test_the_end_of_the_server_does_not_wait_for_the_work(gate: Gate) -> None:
    gate.door.clear()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(serving())
        leaving = stack.pop_all()
        with sent(client, "number-1"):
            until(lambda: gate.begun == 1, "it does not begin")
            started = time.monotonic()
            leaving.close()
            assert time.monotonic() - started < 5
    until(lambda: gate.ended == 1, "the work goes on")
    assert np.isfinite(gate.most)
