"""The epoch that comes next, where several processes ask for it."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcrstore import OptionError

pytest.importorskip("torch")

from pcrstore.torch import epochs as epochs_module
from pcrstore.torch.epochs import SharedEpochs


def join(epochs, worker, *, seed=0, nth=1, n_workers=2, loaded=None):
    turn = epochs.join(seed, nth, worker, n_workers, loaded)
    return turn.epoch, turn.loaded


@given(data=st.data(), n_workers=st.integers(1, 3), n_loops=st.integers(1, 3))
def test_workers_that_begin_together_read_one_epoch_in_whatever_order_they_come(
    data, n_workers, n_loops
):
    """Each DataLoader's iterator has a seed; workers that stay begin with it several times."""
    epochs = SharedEpochs()
    left = {(seed, w): 1 for seed in range(2) for w in range(n_workers)}
    seen = {}
    while left:
        seed, worker = one = data.draw(st.sampled_from(sorted(left)))
        nth = left[one]
        epoch, _ = join(epochs, worker, seed=seed, nth=nth, n_workers=n_workers)
        seen.setdefault((seed, nth), set()).add(epoch)
        left[one] += 1
        if nth == n_loops:
            del left[one]
    assert all(len(of) == 1 for of in seen.values())
    assert sorted(epoch for of in seen.values() for epoch in of) == list(range(2 * n_loops))


def test_a_loop_of_the_same_seed_is_another_where_a_worker_came_already_or_is_gone(monkeypatch):
    epochs = SharedEpochs()
    assert [join(epochs, 0)[0], join(epochs, 0)[0]] == [0, 1]
    assert join(epochs, 1)[0] == 1
    monkeypatch.setattr(epochs_module, "_is_alive", lambda _: False)
    assert join(epochs, 1)[0] == 2


def test_a_process_is_alive_until_it_has_ended():
    assert epochs_module._is_alive(os.getpid())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not epochs_module._is_alive(ended.pid)


def test_a_process_of_somebody_else_is_alive(monkeypatch):
    def kill(*_):
        raise PermissionError

    monkeypatch.setattr("os.kill", kill)
    assert epochs_module._is_alive(1)


def test_one_iteration_goes_on_from_a_state_and_all_of_its_workers_do():
    epochs = SharedEpochs()
    number = epochs.load()
    assert epochs.loaded == number
    assert join(epochs, 0, loaded=(number, 7)) == (7, number)
    assert epochs.loaded == 0
    assert join(epochs, 0, nth=2, loaded=(number, 7)) == (8, 0)
    assert join(epochs, 1, loaded=(number, 7)) == (7, number)
    assert join(epochs, 1, nth=2, loaded=(number, 7)) == (8, 0)
    later = epochs.load()
    assert join(epochs, 0, seed=1, loaded=(number, 7)) == (9, 0)
    assert later != number


def test_an_epoch_that_is_set_is_the_next_and_drops_a_state_or_keeps_it():
    epochs = SharedEpochs()
    number = epochs.load()
    epochs.set(3, keeps_loaded=True)
    assert (epochs.next, epochs.loaded) == (3, number)
    epochs.set(4, keeps_loaded=False)
    assert (epochs.next, epochs.loaded) == (4, 0)
    for wrong in (-1, True, 1.5, "2", 2**62 + 1):
        with pytest.raises(OptionError, match="epoch"):
            epochs.set(wrong, keeps_loaded=False)
    assert epochs.next == 4


def test_what_follows_an_end_is_the_epoch_that_was_set_or_the_one_after():
    epochs = SharedEpochs()
    assert epochs.after(3) == 4
    epochs.end(3)
    assert epochs.next == 4
    epochs.set(9, keeps_loaded=False)
    assert epochs.after(3) == 9
    assert epochs.after(9) == 10
    epochs.end(3)
    assert epochs.next == 9
    epochs.begin(2)
    assert epochs.next == 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])  # noqa: S301 - our own bytes
def test_a_copy_is_where_the_other_is_and_goes_its_own_way(copied):
    epochs = SharedEpochs()
    epochs.set(3, keeps_loaded=False)
    other = copied(epochs)
    epochs.begin(8)
    assert (epochs.next, other.next) == (9, 3)


def test_iterations_that_no_worker_comes_to_are_forgotten():
    epochs = SharedEpochs()
    for seed in range(100):
        join(epochs, 0, seed=seed)
    assert len(epochs._read().turns) == epochs_module._KEPT
    assert join(epochs, 1, seed=99)[0] == 99
