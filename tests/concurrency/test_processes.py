"""Tasks run in order, a bounded number ahead, and a worker that dies is an error of ours."""

import os
import threading
import time

import pytest

from pcrstore.concurrency.processes import ordered_map
from pcrstore.errors import PcrstoreError


def square(setting):
    def run(task):
        if task == "die":
            os._exit(9)
        if task == "fail":
            raise PcrstoreError("of the task")
        if task == "sleep":
            time.sleep(15)
        return setting, task * task if isinstance(task, int) else os.getpid()

    return run


def mapped(tasks, n_workers, **kwargs):
    return ordered_map(square, "s", iter(tasks), n_workers=n_workers, **kwargs)


@pytest.mark.parametrize("n_workers", [1, 2, 7])
def test_results_come_in_order(n_workers):
    want = [("s", i * i) for i in range(30)]
    assert list(mapped(range(30), n_workers, in_process=True)) == want


@pytest.mark.parametrize("n_workers", [1, 2, 4])
def test_tasks_are_taken_a_bounded_number_ahead(n_workers):
    taken = 0

    def tasks():
        nonlocal taken
        for i in range(100):
            taken += 1
            yield i

    for n, _ in enumerate(ordered_map(square, "s", tasks(), n_workers=n_workers, in_process=True)):
        assert taken <= n + 3 * n_workers + 1


def test_threads_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=20)
    found = ordered_map(
        lambda _: lambda t: barrier.wait() * 0 + t,
        None,
        iter(range(3)),
        n_workers=3,
        in_process=True,
    )
    assert list(found) == [0, 1, 2]


@pytest.mark.parametrize("n_workers", [1, 3])
def test_an_error_of_a_task_is_raised_in_its_turn(n_workers):
    results = iter(mapped([1, 2, "fail", 3], n_workers, in_process=True))
    assert [next(results)[1], next(results)[1]] == [1, 4]
    with pytest.raises(PcrstoreError, match="of the task"):
        next(results)


@pytest.mark.slow
def test_processes_give_the_same_and_are_others():
    assert list(mapped([*range(8)], 2)) == [("s", i * i) for i in range(8)]
    pids = {pid for _, pid in mapped(["pid"] * 8, 2)}
    assert os.getpid() not in pids


@pytest.mark.slow
def test_a_worker_that_dies_is_an_error_that_says_what_to_do():
    with pytest.raises(PcrstoreError, match="worker process died"):
        list(mapped([1, "die", 3], 2))


@pytest.mark.slow
def test_a_worker_that_dies_is_told_in_the_words_of_the_caller():
    given = {"if_died": "resume it", "if_never_ran": "guard it"}
    results = mapped(["pid", "die", "die", "die"], 2, **given)
    next(results)
    with pytest.raises(PcrstoreError, match="resume it"):
        next(results)
    with pytest.raises(PcrstoreError, match="guard it"):
        list(mapped(["die"], 2, **given))


@pytest.mark.slow
def test_leaving_early_ends_the_workers_at_once():
    results = iter(mapped(["pid", "sleep", "sleep", "sleep", "sleep", "sleep", "pid"], 2))
    pid = next(results)[1]
    started = time.monotonic()
    results.close()
    while _runs(pid):
        assert time.monotonic() - started < 10
        time.sleep(0.05)


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="latin-1") as f:  # noqa: PTH123 - a kernel file
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
