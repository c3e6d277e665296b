"""Single samples for torch's own loaders: shared out among ranks and workers, and resumed."""

import copy
import pickle
import sys
import warnings
from collections import Counter
from types import SimpleNamespace

import pytest
from small_datasets import kept_while_waiting

from pcrstore import OptionError, UsageError
from pcrstore.loader.batches import BatchStream

torch = pytest.importorskip("torch")

from torch.utils.data import DataLoader  # noqa: E402 - only where torch is installed
from torch_data import QUIET, N, converted, epoch_of, of_loader, singles  # noqa: E402 - as above

from pcrstore.torch import IterableDataset, Loader  # noqa: E402 - as above

pytestmark = [
    *(pytest.mark.filterwarnings(w) for w in QUIET),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata 0.11 calls it
]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A dataset of 14 records in a folder."""
    return converted(tmp_path_factory.mktemp("torch"))


def test_a_single_sample_is_a_tensor_and_a_label(url):
    image, label = next(iter(IterableDataset(url, size=(8, 24))))
    assert image.shape == (3, 8, 24)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert type(label) is int


@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_torchs_loader_reads_each_sample_once(url, num_workers, batch_size):
    ds = IterableDataset(url, size=16)
    loader = DataLoader(ds, batch_size, num_workers=num_workers)
    assert len(ds) == N
    got = singles(loader)
    assert sorted(got) == of_loader(url)
    if num_workers < 2:
        assert got == list(epoch_of(url).values())


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_sample_that_is_kept_keeps_its_pixels(url, num_workers):
    loader = DataLoader(IterableDataset(url, size=16), None, num_workers=num_workers)
    kept = [(image, label) for _ in range(3) for image, label in loader]
    got = sorted((image.numpy().tobytes(), int(label)) for image, label in kept)
    assert got == sorted(sample for epoch in range(3) for sample in of_loader(url, epoch))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_epoch_and_fidelity_reach_the_workers_that_there_are(url, num_workers, persistent):
    if persistent and not num_workers:
        return
    ds = IterableDataset(url, size=16, fidelity=1)
    loader = DataLoader(ds, 7, num_workers=num_workers, persistent_workers=persistent)
    assert sorted(singles(loader)) == of_loader(url, fidelity=1)
    assert sorted(singles(loader)) == of_loader(url, 1, fidelity=1)
    for epoch, k in ((1, 1), (1, 5), (4, 2)):
        ds.set_epoch(epoch)
        ds.fidelity = k
        assert ds.fidelity == k
        assert sorted(singles(loader)) == of_loader(url, epoch, fidelity=k)


KINDS = {
    "alone": {"num_workers": 0},
    "workers": {"num_workers": 2},
    "workers-that-stay": {"num_workers": 2, "persistent_workers": True},
    "spawned": {"num_workers": 2, "multiprocessing_context": "spawn"},
    "spawned-that-stay": {
        "num_workers": 2,
        "multiprocessing_context": "spawn",
        "persistent_workers": True,
    },
}
SPAWNED = [
    pytest.param(options, id=name, marks=[pytest.mark.slow] * name.startswith("spawned"))
    for name, options in KINDS.items()
]


@pytest.mark.parametrize("options", SPAWNED)
def test_each_iteration_reads_the_next_epoch_unless_one_is_set(url, options):
    ds = IterableDataset(url, size=16)
    loader = DataLoader(ds, 7, **options)
    for epoch in (0, 1, 5, 6):
        if epoch == 5:
            ds.set_epoch(5)
        assert sorted(singles(loader)) == of_loader(url, epoch)


@pytest.mark.parametrize("options", SPAWNED)
def test_after_a_position_that_was_loaded_come_whole_epochs(url, options):
    first = IterableDataset(url, size=16)
    first.set_epoch(2)
    samples = iter(first)
    got = [next(samples) for _ in range(15)]
    ds = IterableDataset(url, size=16)
    ds.load_state_dict(first.state_dict())
    loader = DataLoader(ds, 7, **options)
    before = [(image.numpy().tobytes(), label) for image, label in got]
    assert sorted(before + singles(loader)) == of_loader(url, 2)
    assert sorted(singles(loader)) == of_loader(url, 3)
    assert sorted(singles(loader)) == of_loader(url, 4)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("is_asked_for", [False, True])
def test_after_the_end_that_was_loaded_comes_the_next_epoch_or_nothing_where_it_is_set(
    url, num_workers, is_asked_for
):
    first = IterableDataset(url, size=16)
    first.set_epoch(2)
    assert len(list(first)) == N
    ds = IterableDataset(url, size=16)
    ds.load_state_dict(first.state_dict())
    loader = DataLoader(ds, 7, num_workers=num_workers)
    if is_asked_for:
        ds.set_epoch(2)
        assert singles(loader) == []
    assert sorted(singles(loader)) == of_loader(url, 3)
    assert sorted(singles(loader)) == of_loader(url, 4)


def test_an_iteration_that_has_given_nothing_does_not_count(url):
    ds = IterableDataset(url, size=16)
    kept = [iter(ds), iter(ds)]
    assert sorted(singles(DataLoader(ds, 7))) == of_loader(url, 0)
    position = {**ds.state_dict(), "batches": 30}
    ds.load_state_dict(position)
    kept += [iter(ds), iter(ds)]
    assert ds.state_dict() == position
    assert len(list(ds)) == N - 30
    ds.load_state_dict(position)
    kept.append(iter(ds))
    with pytest.warns(UserWarning, match=r"set_epoch\(3\) drops the position in epoch 0"):
        ds.set_epoch(3)
    assert sorted(singles(DataLoader(ds, 7))) == of_loader(url, 3)


@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("is_seeded", [False, True])
def test_workers_agree_on_an_epoch_after_loops_that_were_left(url, persistent, is_seeded):
    ds = IterableDataset(url, size=16)
    loader = DataLoader(ds, 7, num_workers=3, persistent_workers=persistent)
    for _ in range(3):
        if is_seeded:  # then torch gives the iterators one seed
            torch.manual_seed(0)
        next(iter(loader))
    if is_seeded:
        torch.manual_seed(0)
    whole = [sorted(singles(loader)) for _ in range(2)]
    epochs = [of_loader(url, epoch) for epoch in range(5)]
    assert [epochs.index(epoch) for epoch in whole] == [3, 4]


def test_workers_agree_on_an_epoch_while_an_older_iteration_has_workers(url):
    loader = DataLoader(IterableDataset(url, size=16), 7, num_workers=3)
    both = [iter(loader), iter(loader)]  # as Lightning begins
    whole = [sorted(singles(batches)) for batches in both]
    assert sorted(whole) == sorted([of_loader(url, 0), of_loader(url, 1)])
    assert sorted(singles(loader)) == of_loader(url, 2)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_stateful_loader_that_was_resumed_reads_whole_epochs_after_it(
    url, stateful, num_workers, persistent
):
    def loader():
        options = {"num_workers": num_workers, "persistent_workers": persistent and num_workers > 0}
        return stateful(IterableDataset(url, size=16), batch_size=4, **options)

    first = loader()
    singles(first)
    batches = iter(first)
    got = singles([next(batches) for _ in range(3)])
    second = resumed(loader(), first.state_dict())
    assert sorted(got + singles(second)) == of_loader(url, 1)
    assert sorted(singles(second)) == of_loader(url, 2)
    third = resumed(loader(), second.state_dict())
    assert sorted(singles(third)) == of_loader(url, 3)


ACCELERATE = SimpleNamespace(is_initialized=lambda: True)
"""What is asked of `accelerate.state`; tests/neighbours/accelerate has the real one."""


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("ranks", [{}, {"rank": 1, "world_size": 2}, {"rank": 0, "world_size": 1}])
def test_what_accelerate_would_split_again_is_refused(url, monkeypatch, num_workers, ranks):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = DataLoader(IterableDataset(url, size=16, **ranks), 7, num_workers=num_workers)
    assert len(singles(loader)) == N // ranks.get("world_size", 2)
    monkeypatch.setitem(sys.modules, "accelerate.state", ACCELERATE)
    if ranks:
        assert len(singles(loader)) == N // ranks["world_size"]
        return
    with pytest.raises(UsageError, match=r"Use pcrstore\.torch\.Loader, .* or .*rank=0"):
        singles(loader)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("RANK", "0")
    assert len(singles(loader)) == N


def test_what_a_spawned_worker_of_accelerate_would_split_again_is_refused(url, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate.state", ACCELERATE)
    ds = IterableDataset(url, size=16)
    assert len(pickle.loads(pickle.dumps(ds))) == N // 2  # noqa: S301 - our own bytes
    with pytest.raises(UsageError, match="a part of its part"):
        next(iter(DataLoader(ds, 7, num_workers=1, multiprocessing_context="spawn")))


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ranks_read_shares_of_equal_size(url, world_size, num_workers):
    shares = [
        IterableDataset(url, size=16, rank=r, world_size=world_size) for r in range(world_size)
    ]
    got = [singles(DataLoader(ds, 7, num_workers=num_workers)) for ds in shares]
    n = -(-N // world_size)
    assert [len(ds) for ds in shares] == [len(of) for of in got] == [n] * world_size
    counts = Counter(sample for of in got for sample in of)
    assert sorted(counts) == of_loader(url)
    assert sum(counts.values()) - N == n * world_size - N


def test_going_on_with_an_older_iteration_is_an_error(url):
    ds = IterableDataset(url, 1, 8)
    older = iter(ds)
    for _ in range(5):
        next(older)
    never_begun = iter(ds)
    newest = iter(ds)
    next(newest)
    said = "another iteration of this dataset has begun: %d samples of this one are left"
    with pytest.raises(UsageError, match=said % (N - 5)):
        next(older)
    with pytest.raises(UsageError, match=said % N):
        next(never_begun)
    assert ds.state_dict()["batches"] == 1
    assert len(list(newest)) == N - 1
    assert list(newest) == []


def test_an_iteration_that_has_given_all_ends_as_others_do(url):
    ds = IterableDataset(url, 1, 8)
    older = iter(ds)
    for _ in range(N):
        next(older)
    next(iter(ds))
    assert list(older) == []


def test_an_older_iteration_of_nothing_does_not_count(url):
    ds = IterableDataset(url, 1, 8, rank=0, world_size=N + 1, uneven="drop")
    older = iter(ds)
    assert list(ds) == []
    ds.set_epoch(5)
    assert list(older) == []
    assert list(ds) == []
    assert ds.state_dict()["epoch"] == 5


def test_the_epoch_is_the_one_of_when_the_first_sample_was_given(url):
    ds = IterableDataset(url, size=16)
    iterator = iter(ds)
    ds.set_epoch(1)
    assert ds.state_dict()["epoch"] == 1
    first = next(iterator)
    ds.set_epoch(5)
    assert ds.state_dict()["epoch"] == 1
    got = sorted((image.numpy().tobytes(), label) for image, label in [first, *iterator])
    assert got == of_loader(url, 1)
    assert ds.state_dict()["epoch"] == 1
    got = sorted((image.numpy().tobytes(), label) for image, label in ds)
    assert got == of_loader(url, 5)


def test_threads_that_others_stop_are_no_end_of_an_epoch(url):
    samples = iter(IterableDataset(url, size=16, n_threads=1))
    next(samples)
    BatchStream.close_all()
    with pytest.raises(UsageError, match=f"threads .* stopped: {N - 32} samples .* left"):
        list(samples)


def test_no_batch_is_kept_while_the_next_is_waited_for(url, monkeypatch):
    kept = kept_while_waiting(monkeypatch)
    assert len(list(IterableDataset(url, size=16))) == N
    assert kept == [False]


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_loop_that_is_left_does_not_count_for_the_next(url, n):
    ds = IterableDataset(url, 1, 8)
    for i, _ in enumerate(ds):
        if i == n:
            break
    batches = iter(DataLoader(ds, 4))
    next(batches)
    assert ds.state_dict()["batches"] == 4
    del batches
    next(iter(ds))
    assert ds.state_dict()["batches"] == 1


# ---- resumed


@pytest.fixture
def stateful():
    return pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1, 2, 5])
@pytest.mark.parametrize("n", [0, 1, 3, 8])
def test_a_stateful_loader_goes_on_to_the_sample(url, stateful, num_workers, n):
    def loader(**options):
        return stateful(
            IterableDataset(url, size=16, **options), batch_size=4, num_workers=num_workers
        )

    first = loader()
    first.dataset.set_epoch(3)
    batches = iter(first)
    got = [next(batches) for _ in range(n)]
    state = first.state_dict()
    rest = singles(batches)
    want = singles(got) + rest
    assert sorted(want) == of_loader(url, 3)
    second = loader()
    second.dataset.set_epoch(3)
    second.load_state_dict(state)
    assert singles(got) + singles(second) == want
    second.dataset.set_epoch(4)
    assert sorted(singles(second)) == of_loader(url, 4)


def resumed(loader, state):
    loader.load_state_dict(state)
    return loader


def test_a_stateful_loader_of_other_data_is_refused(url, stateful):
    first = stateful(IterableDataset(url, size=16), batch_size=4)
    next(iter(first))
    other = stateful(IterableDataset(url, size=16, seed=1), batch_size=4)
    with pytest.raises(OptionError, match="seed"):
        singles(resumed(other, first.state_dict()))


@pytest.mark.slow
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_that_were_done_take_part_in_the_next_epoch(url, stateful, persistent):
    def loader():
        ds = IterableDataset(url, size=16, select=range(9))
        return stateful(ds, batch_size=2, num_workers=2, persistent_workers=persistent)

    first = loader()
    n_batches = len(list(first))
    for n in range(1, n_batches + 1):
        batches = iter(loader_before := loader())
        got = singles([next(batches) for _ in range(n)])
        second = resumed(loader(), loader_before.state_dict())
        rest = singles(second)
        del batches
        assert sorted(got + rest) == of_loader(url, select=range(9))
        second.dataset.set_epoch(1)
        assert sorted(singles(second)) == of_loader(url, 1, select=range(9))


@pytest.mark.parametrize("persistent", [False, True])
def test_a_state_of_a_later_epoch_has_those_who_have_yielded_nothing(url, stateful, persistent):
    def loader():
        ds = IterableDataset(url, size=16)
        return stateful(ds, batch_size=4, num_workers=3, persistent_workers=persistent)

    first = loader()
    list(first)
    first.dataset.set_epoch(1)
    batches = iter(first)
    got = singles([next(batches)])
    rest = singles(resumed(loader(), first.state_dict()))  # which is not told the epoch
    assert sorted(got + rest) == of_loader(url, 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_after_the_state_of_a_finished_epoch_comes_a_whole_one(url, stateful, num_workers):
    first = stateful(IterableDataset(url, size=16), batch_size=4, num_workers=num_workers)
    list(first)
    second = stateful(IterableDataset(url, size=16), batch_size=4, num_workers=num_workers)
    second.load_state_dict(first.state_dict())
    second.dataset.set_epoch(1)
    assert sorted(singles(second)) == of_loader(url, 1)
    second.dataset.set_epoch(2)
    assert sorted(singles(second)) == of_loader(url, 2)


def test_a_dataset_has_a_state_of_its_own(url):
    ds = IterableDataset(url, size=16)
    ds.set_epoch(2)
    iterator = iter(ds)
    got = [next(iterator) for _ in range(11)]
    state = ds.state_dict()
    other = IterableDataset(url, size=16)
    other.load_state_dict(state)
    assert other.state_dict() == state
    rest = iter(other)
    assert other.state_dict() == state
    got += rest
    next(iterator)
    assert ds.state_dict() != state
    ds.load_state_dict(state)
    assert ds.state_dict() == state
    pixels = sorted((image.numpy().tobytes(), label) for image, label in got)
    assert pixels == of_loader(url, 2)
    other.set_epoch(3)
    pixels = sorted((image.numpy().tobytes(), label) for image, label in other)
    assert pixels == of_loader(url, 3)


def test_a_state_of_one_process_goes_on_on_two_ranks(url):
    ds = IterableDataset(url, size=16)
    iterator = iter(ds)
    got = [next(iterator) for _ in range(12)]
    for rank in range(2):
        other = IterableDataset(url, size=16, rank=rank, world_size=2)
        other.load_state_dict(ds.state_dict())
        got += other
    assert sorted((image.numpy().tobytes(), label) for image, label in got) == of_loader(url)


def test_a_state_of_several_workers_wants_as_many(url, stateful):
    first = stateful(IterableDataset(url, size=16), batch_size=4, num_workers=2)
    next(iter(first))
    [state] = {
        str(w["dataset_state"]): w["dataset_state"]
        for w in first.state_dict()["_snapshot"]["_worker_snapshots"].values()
        if w["dataset_state"]["worker"] == 0
    }.values()
    ds = IterableDataset(url, size=16)
    ds.load_state_dict(state)
    with pytest.raises(OptionError, match="2 workers"):
        next(iter(ds))


@pytest.mark.parametrize("worker", [0, 1])
def test_a_state_of_one_worker_is_not_for_the_others(url, monkeypatch, worker):
    # Not by processes: torch waits for seconds for the others where one of them raises.
    def is_worker(number):
        info = SimpleNamespace(id=number, num_workers=2, seed=number)
        monkeypatch.setattr("torch.utils.data.get_worker_info", lambda: info)

    state = {**IterableDataset(url, 1, 8).state_dict(), "num_workers": 2, "worker": worker}
    ds = IterableDataset(url, 1, 8)
    ds.load_state_dict({**state, "batches": 9})
    is_worker(1 - worker)
    with pytest.raises(OptionError, match=f"of worker {worker} of 2, got worker {1 - worker}"):
        next(iter(ds))
    ds.load_state_dict({**state, "batches": 9})
    is_worker(worker)
    assert len(list(ds)) == N // 2 - 9


@pytest.mark.parametrize("num_workers", [1, 2])
def test_beside_workers_there_is_no_position_to_tell(url, num_workers):
    ds = IterableDataset(url, 1, 8)
    at_start = ds.state_dict()
    loader = DataLoader(ds, 4, num_workers=num_workers)
    batches = iter(loader)
    next(batches)
    for _ in range(2):
        with pytest.raises(UsageError, match="each has a position of its own"):
            ds.state_dict()
        list(batches)
    ds.load_state_dict(at_start)
    assert ds.state_dict() == at_start
    next(iter(ds))
    assert ds.state_dict()["batches"] == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "rank and world_size"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"uneven": "wrap"}, "uneven"),
    ],
)
def test_wrong_ranks_are_named(url, options, said):
    with pytest.raises(OptionError, match=said):
        IterableDataset(url, **options)


def test_a_state_of_something_else_is_refused(url):
    ds = IterableDataset(url)
    for state in ({}, {"format": 2}, 5, {**ds.state_dict(), "epoch": -1}):
        with pytest.raises(OptionError):
            ds.load_state_dict(state)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("batches", value) for value in (None, -1, True, 1.0, "3", N + 1)),
        *(("worker", value) for value in (None, -1, True, "0", 1)),
        ("batch_size", 2),
        ("drop_last", True),
    ],
)
def test_a_state_that_was_spoilt_is_refused_when_it_is_loaded(url, name, value):
    ds = IterableDataset(url, 1, 8)
    state = ds.state_dict()
    without = {k: v for k, v in state.items() if k != name}
    for spoilt in (without, {**state, name: value}):
        with pytest.raises(OptionError, match=f"{name}.* of a state|must have .*{name}"):
            ds.load_state_dict(spoilt)
    assert len(list(ds)) == N


@pytest.mark.parametrize(("num_workers", "worker", "most"), [(1, 0, 40), (3, 0, 14), (3, 2, 13)])
def test_a_worker_has_yielded_no_more_than_its_share(url, num_workers, worker, most):
    ds = IterableDataset(url, 1, 8)
    state = {**ds.state_dict(), "num_workers": num_workers, "worker": worker}
    ds.load_state_dict({**state, "batches": most})
    with pytest.raises(OptionError, match=rf"batches of a state must be in 0\.\.{most}, got"):
        ds.load_state_dict({**state, "batches": most + 1})
    with pytest.raises(OptionError, match="worker of a state must be in"):
        ds.load_state_dict({**state, "worker": num_workers})


def test_an_option_that_there_is_not_is_named(tmp_path):
    with pytest.raises(OptionError, match="IterableDataset has no option batch_size"):
        IterableDataset(tmp_path, batch_size=3)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_copy_reads_the_share_of_the_rank_that_it_came_to(url, monkeypatch, num_workers):
    ds = pickle.loads(pickle.dumps(IterableDataset(url, 1, 8)))  # noqa: S301 - our own bytes
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert len(ds) == N // 4
    assert len(singles(DataLoader(ds, 4, num_workers=num_workers))) == N // 4


def test_a_copy_has_the_position_and_goes_its_own_way(url):
    ds = IterableDataset(url, 1, 8)
    samples = iter(ds)
    for _ in range(5):
        next(samples)
    again = copy.deepcopy(ds)
    assert again.state_dict() == ds.state_dict()
    next(iter(again))
    assert len(list(samples)) == N - 5


def test_another_epoch_drops_a_loaded_state(url):
    made = IterableDataset(url, 1, 8)
    rows = iter(made)
    for _ in range(5):
        next(rows)
    state = made.state_dict()
    other = IterableDataset(url, 1, 8)
    other.load_state_dict(state)
    other.set_epoch(0)
    assert len(list(other)) == N - 5
    other.load_state_dict(state)
    with pytest.warns(UserWarning, match=r"set_epoch\(1\) drops the position in epoch 0"):
        other.set_epoch(1)
    assert other.state_dict()["epoch"] == 1
    assert len(list(other)) == N
    with pytest.raises(OptionError, match="a state that counts samples expected, got 'batches'"):
        other.load_state_dict(Loader(url, fidelity=1).state_dict())


def test_a_position_is_lost_where_something_is_left_alone(url):
    ds = IterableDataset(url, 1, 8)
    list(ds)
    ended = ds.state_dict()
    other = IterableDataset(url, 1, 8)
    other.load_state_dict(ended)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.set_epoch(1)  # nothing was left
    other.load_state_dict({**ended, "batches": N - 1})
    assert len(singles(DataLoader(other, 4, num_workers=1))) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other.set_epoch(1)  # a worker went on from it
    assert len(singles(DataLoader(other, 4, num_workers=1))) == N
