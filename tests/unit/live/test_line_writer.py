"""Lines that a thread writes: their order, what is lost, and that nobody waits."""

import os
import threading
import time

import pytest

from dpace_serve.live.line_writer import LimitReachedError, LineWriter


class Collected:
    """A sink that keeps lines in memory, once its gate is open."""

    def __init__(self, *, is_open=True):
        self.lines = []
        self.is_closed = False
        self.threads = set()
        self.gate = threading.Event()
        if is_open:
            self.gate.set()

    def write(self, line):
        self.gate.wait()
        self.threads.add(threading.get_ident())
        self.lines.append(line)

    def close(self):
        self.is_closed = True


class FullDisk:
    """The kernel's own: every write to it fails with ENOSPC."""

    def __init__(self):
        self.descriptor = os.open("/dev/full", os.O_WRONLY)

    def write(self, line):
        os.write(self.descriptor, line.encode())

    def close(self):
        os.close(self.descriptor)


@pytest.fixture
def start():
    writers = []

    def make(sink, *, max_waiting=100):
        lost = []
        writer = LineWriter(sink, name="test", max_waiting=max_waiting, on_lost=lost.append)
        writers.append(writer)
        return writer, lost

    yield make
    for writer in writers:
        writer.close(timeout_seconds=0.0)


def test_lines_are_made_and_written_in_their_order_by_one_other_thread(start):
    sink = Collected()
    writer, lost = start(sink)
    made_by = []

    def made(number):
        made_by.append(threading.get_ident())
        return str(number)

    for number in range(50):
        writer.put(lambda number=number: made(number))
    writer.close(timeout_seconds=10.0)
    assert sink.lines == [str(number) for number in range(50)]
    assert (sink.is_closed, lost) == (True, [])
    assert set(made_by) == sink.threads
    assert threading.get_ident() not in sink.threads


def test_while_the_disk_hangs_nobody_waits_and_what_is_too_much_is_lost(start):
    sink = Collected(is_open=False)
    writer, lost = start(sink, max_waiting=3)
    writer.put(lambda: "first")
    while not writer._waiting.empty():  # the thread takes it, and hangs
        time.sleep(0.001)
    started = time.monotonic()
    for number in range(5):
        writer.put(lambda number=number: str(number))
    assert time.monotonic() - started < 1.0
    assert lost == ["queue_full"] * 2
    sink.gate.set()
    writer.close(timeout_seconds=10.0)
    assert sink.lines == ["first", "0", "1", "2"]


def test_a_full_disk_is_counted_and_told_once(start, caplog):
    writer, lost = start(FullDisk())
    for _ in range(3):
        writer.put(lambda: "a line")
    writer.close(timeout_seconds=10.0)
    assert lost == ["disk_error"] * 3
    assert caplog.text.count("No space left on device") == 1


def test_a_limit_and_a_line_that_cannot_be_made_cost_no_other_line(start):
    class Limited(Collected):
        def write(self, line):
            if line == "big":
                raise LimitReachedError("no room")
            super().write(line)

    sink = Limited()
    writer, lost = start(sink)
    for make_line in (lambda: "big", lambda: str(1 // 0), lambda: "small"):
        writer.put(make_line)
    writer.close(timeout_seconds=10.0)
    assert lost == ["limit_reached", "bad_line"]
    assert sink.lines == ["small"]


def test_after_closing_lines_are_counted_as_lost(start):
    sink = Collected()
    writer, lost = start(sink)
    writer.close(timeout_seconds=10.0)
    writer.close(timeout_seconds=10.0)
    writer.put(lambda: "late")
    assert (sink.lines, lost) == ([], ["closed"])


@pytest.mark.parametrize("max_waiting", [2, 3])  # full, and with room for the end
def test_closing_waits_no_longer_than_it_may_for_a_disk_that_hangs(start, max_waiting):
    sink = Collected(is_open=False)
    writer, lost = start(sink, max_waiting=max_waiting)
    writer.put(lambda: "first")
    while not writer._waiting.empty():
        time.sleep(0.001)
    for number in range(2):
        writer.put(lambda number=number: str(number))
    writer.close(timeout_seconds=0.05)
    assert lost == ["closed"] * 2
    sink.gate.set()
    writer._thread.join(10.0)
    assert (sink.lines, sink.is_closed) == (["first"], True)


def test_many_threads_lose_and_double_nothing(start):
    sink = Collected()
    writer, lost = start(sink, max_waiting=10_000)

    def produce(name):
        for number in range(200):
            writer.put(lambda number=number: f"{name} {number}")

    threads = [threading.Thread(target=produce, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close(timeout_seconds=10.0)
    assert lost == []
    for name in "abcd":
        own = [line for line in sink.lines if line.startswith(name)]
        assert own == [f"{name} {number}" for number in range(200)]
