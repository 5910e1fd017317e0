from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from ai_container.admission import Admission, ByteBudget, Deadline
from imaging_core.errors import Retryable


class Request(threading.Thread):
    """A request that stays in until it is let go."""

    def __init__(self, admission: Admission, order: list[int], number: int) -> None:
        super().__init__(daemon=True)
        self._admission, self._order, self._number = admission, order, number
        self.running, self.go = threading.Event(), threading.Event()
        self.error: Retryable | None = None
        self.start()

    def run(self) -> None:
        try:
            with self._admission.admitted():
                self._order.append(self._number)
                self.running.set()
                self.go.wait(20)
        except Retryable as error:
            self.error = error

    def end(self) -> None:
        self.go.set()
        self.join(20)
        assert not self.is_alive()


def until(true: Callable[[], bool]) -> None:
    """Wait for a condition, with a bound."""
    for _ in range(2000):
        if true():
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came to be")


def test_at_most_so_many_run_and_wait_and_the_next_is_told_to_come_back() -> None:
    admission, order = Admission(running=1, waiting=2, seconds=20), list[int]()
    first = Request(admission, order, 1)
    assert first.running.wait(10)
    others = []
    for number in (2, 3):
        others.append(Request(admission, order, number))
        until(lambda: len(admission._queue) == len(others))
    with pytest.raises(Retryable, match="AI_QUEUE = 2") as refused, admission.admitted():
        pass
    assert refused.value.code == "queue-full"
    assert refused.value.retry_after >= 1
    for request in (first, *others):
        assert request.running.wait(10)
        request.end()
    assert order == [1, 2, 3]  # in the order in which they came


def test_who_waits_longer_than_a_request_may_take_is_told_so() -> None:
    admission, order = Admission(running=1, waiting=5, seconds=0.05), list[int]()
    first = Request(admission, order, 1)
    assert first.running.wait(10)
    with pytest.raises(Retryable, match=r"AI_REQUEST_SECONDS = 0\.05") as refused, admission.admitted():
        pass
    assert refused.value.code == "analysis-timeout"
    first.end()
    with admission.admitted():
        pass  # the place of the one that gave up is free


def test_a_stop_sends_away_what_waits_and_lets_end_what_runs() -> None:
    admission, order = Admission(running=1, waiting=5, seconds=20), list[int]()
    running, waiting = Request(admission, order, 1), None
    assert running.running.wait(10)
    waiting = Request(admission, order, 2)
    until(lambda: len(admission._queue) == 1)
    admission.close()
    waiting.join(10)
    assert waiting.error is not None
    assert waiting.error.code == "service-unavailable"
    with pytest.raises(Retryable, match="stopped"), admission.admitted():
        pass
    running.end()
    assert running.error is None


def test_bytes_in_work_are_bounded_and_a_larger_instance_is_held_alone() -> None:
    budget, deadline = ByteBudget(100), Deadline(20)
    entered = threading.Event()

    def large() -> None:
        with budget.held(500, deadline):
            entered.set()

    with budget.held(60, deadline), budget.held(40, deadline):
        with pytest.raises(Retryable, match="AI_REQUEST_SECONDS"), budget.held(1, Deadline(0.05)):
            pass
        thread = threading.Thread(target=large)
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(10)
    thread.join(10)
    with budget.held(100, Deadline(0.05)):
        pass


def test_a_deadline_gives_up_between_two_steps() -> None:
    Deadline(60).check()
    over = Deadline(0.0001)
    until(lambda: not over.remaining())
    with pytest.raises(Retryable, match="analysis-timeout"):
        over.check()
