# ruff: noqa: S101, D102 (a test suite: the names are the sentences)
"""The suite of tests that any store must pass.

class TestMyStore(StoreContract):
@pytest.fixture
def store(self):
return MyStore(...)      # empty, and new for every test
"""

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from pcrstore.core import ByteRange
from pcrstore.errors import FormatError, NotFoundError, OptionError, StoreError
from pcrstore.storage import Store, probe_conditional_create

__all__ = ["StoreContract"]

BODY = bytes(range(256)) * 4
MOST = 1 << 20
"""More bytes than any object has here."""


class StoreContract:
    """Subclass it and give it a fixture `store`: an empty store, new for every test."""

    def test_it_is_a_store(self, store: Store) -> None:
        assert isinstance(store, Store)
        assert store.url
        assert hash(store) == hash(store)  # loaders take stores as keys of a mixture

    def test_it_says_what_it_can(self, store: Store) -> None:
        for can in (store.can_list, store.is_local, store.shared_by_processes):
            assert isinstance(can, bool)
        assert isinstance(store.create_is_atomic, bool)
        assert store.can_list  # only stores that are read can do without
        assert store.n_retries == 0
        if store.is_local:
            assert store.url.startswith("file:///")
            assert store.shared_by_processes

    def test_a_sweep_removes_no_object(self, store: Store) -> None:
        store.put("folder/a", BODY)
        assert store.sweep() == 0
        assert store.get("folder/a", max_bytes=MOST) == BODY

    def test_what_was_put_comes_back(self, store: Store) -> None:
        for name in ("a", "folder/b", "folder/deeper/c"):
            store.put(name, BODY + name.encode())
        for name in ("a", "folder/b", "folder/deeper/c"):
            assert store.get(name, max_bytes=MOST) == BODY + name.encode()

    def test_an_empty_object_is_an_object(self, store: Store) -> None:
        store.put("empty", b"")
        assert store.get("empty", max_bytes=MOST) == b""
        assert [entry.n_bytes for entry in store.list("")] == [0]

    @pytest.mark.parametrize(
        "name",
        [
            "with space",
            "a+b",
            "100%",
            "per%20cent",
            "q?x=1",
            "h#1",
            "[x]*",
            "ü/日本",
            "~tilde",
            "a=b&c",
        ],
    )
    def test_odd_names_are_names(self, store: Store, name: str) -> None:
        store.put(name, b"odd")
        assert store.get(name, max_bytes=MOST) == b"odd"
        assert store.get_ranges([ByteRange(name, 1, 2)]) == [b"d"]
        assert [entry.name for entry in store.list("")] == [name]
        store.delete([name])
        assert store.list("") == []

    @pytest.mark.parametrize("name", ["", "/a", "a/", "a//b", "../a", "a/../../b", "./a", "a\0b"])
    def test_names_stay_below_the_root(self, store: Store, name: str) -> None:
        with pytest.raises(OptionError):
            store.get(name, max_bytes=MOST)
        with pytest.raises(OptionError):
            store.put(name, b"")
        with pytest.raises(OptionError):
            store.sizes([name])

    @pytest.mark.parametrize("size", [0, 1, len(BODY)])
    @pytest.mark.parametrize("beyond", [0, 1, 2**53])
    def test_a_whole_read_may_have_a_bound_at_the_size_or_beyond(
        self, store: Store, size: int, beyond: int
    ) -> None:
        store.put("a", BODY[:size])
        assert store.get("a", max_bytes=size + beyond) == BODY[:size]

    @pytest.mark.parametrize("max_bytes", [0, 1, len(BODY) - 1])
    def test_a_larger_object_is_refused_by_name(self, store: Store, max_bytes: int) -> None:
        store.put("folder/a", BODY)
        with pytest.raises(FormatError, match="folder/a"):
            store.get("folder/a", max_bytes=max_bytes)
        assert store.get_ranges([ByteRange("folder/a", 0, 2)]) == [BODY[:2]]

    def test_sizes_are_those_of_the_objects_in_order(self, store: Store) -> None:
        for name, n_bytes in {"a": 5, "folder/b": 0, "folder/deeper/c": 1024, "z": 1}.items():
            store.put(name, BODY[:n_bytes])
        names = ["z", "folder/deeper/c", "a", "folder/b", "z"]
        assert store.sizes(names) == [1, 1024, 5, 0, 1]
        assert store.sizes([]) == []
        store.put("a", BODY)
        assert store.sizes(["a"]) == [len(BODY)]

    @pytest.mark.parametrize("name", ["nothing-here", "folder", "folder/a/b"])
    def test_what_is_no_object_has_no_size(self, store: Store, name: str) -> None:
        store.put("folder/a", BODY)
        with pytest.raises(NotFoundError, match=name):
            store.sizes(["folder/a", name])

    def test_a_missing_object_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFoundError, match="nothing-here"):
            store.get("nothing-here", max_bytes=MOST)
        with pytest.raises(NotFoundError):
            store.get_ranges([ByteRange("nothing-here", 0, 1)])

    def test_put_overwrites(self, store: Store) -> None:
        store.put("a", b"first, and longer")
        store.put("a", b"second")
        assert store.get("a", max_bytes=MOST) == b"second"

    def test_ranges_come_back_in_order(self, store: Store) -> None:
        store.put("a", BODY)
        store.put("b", BODY[::-1])
        ranges = [
            ByteRange("a", 500, 600),
            ByteRange("b", 0, 1),
            ByteRange("a", 0, 10),
            ByteRange("a", 10, 20),
            ByteRange("a", 5, 15),
            ByteRange("a", 0, 10),
            ByteRange("b", 7, 7),
            ByteRange("a", 0, len(BODY)),
        ]
        whole = {"a": BODY, "b": BODY[::-1]}
        assert store.get_ranges(ranges) == [whole[r.name][r.start : r.stop] for r in ranges]
        assert store.get_ranges([]) == []

    def test_bodies_are_bytes(self, store: Store) -> None:
        store.put("a", BODY)
        assert type(store.get("a", max_bytes=MOST)) is bytes
        assert type(store.get_ranges([ByteRange("a", 0, 2)])[0]) is bytes

    @pytest.mark.parametrize(
        ("start", "stop"), [(0, 1025), (1023, 1025), (1024, 1025), (5000, 6000)]
    )
    def test_a_range_past_the_end_is_an_error(self, store: Store, start: int, stop: int) -> None:
        store.put("a", BODY)
        with pytest.raises(StoreError):
            store.get_ranges([ByteRange("a", 0, 1), ByteRange("a", start, stop)])

    def test_list_is_recursive_sorted_and_relative(self, store: Store) -> None:
        for name in ("b", "a/2", "a/1", "a/deep/0", "a-b", "aa/1"):
            store.put(name, name.encode())
        assert [entry.name for entry in store.list("")] == sorted(
            ["b", "a/2", "a/1", "a/deep/0", "a-b", "aa/1"]
        )
        for prefix in ("a", "a/"):
            below = store.list(prefix)
            assert [entry.name for entry in below] == ["a/1", "a/2", "a/deep/0"]
            assert [entry.n_bytes for entry in below] == [3, 3, 8]

    def test_a_missing_folder_has_no_entries(self, store: Store) -> None:
        assert store.list("") == []
        store.put("a/b", b"")
        assert store.list("nothing/here") == []

    def test_a_listing_is_not_a_memory(self, store: Store) -> None:
        store.put("a", b"1")
        first = store.list("")
        store.put("b", b"2")
        assert [entry.name for entry in store.list("")] == ["a", "b"]
        store.put("a", b"333")
        again = store.list("")
        assert again[0].n_bytes == 3
        assert first[0].etag is None or again[0].etag != first[0].etag

    def test_create_makes_what_is_not_there(self, store: Store) -> None:
        assert store.create("folder/a", b"first") is True
        assert store.create("folder/a", b"second") is False
        assert store.get("folder/a", max_bytes=MOST) == b"first"
        assert [entry.name for entry in store.list("")] == ["folder/a"]

    def test_of_many_creators_one_wins(self, store: Store) -> None:
        if not store.create_is_atomic:
            pytest.skip("this store says that its create is not atomic")
        n = 16
        start = Barrier(n)

        def race(writer: int) -> bool:
            start.wait()
            return store.create("race", b"writer %d" % writer)

        with ThreadPoolExecutor(n) as pool:
            won = list(pool.map(race, range(n)))
        assert sum(won) == 1
        assert store.get("race", max_bytes=MOST) == b"writer %d" % won.index(True)

    def test_the_probe_tells_and_cleans_up(self, store: Store) -> None:
        assert probe_conditional_create(store) is store.create_is_atomic
        assert store.list("") == []

    def test_delete_removes_and_forgives(self, store: Store) -> None:
        for name in ("a", "b/c", "d"):
            store.put(name, b"x")
        store.delete(["a", "b/c", "never-was"])
        store.delete([])
        assert [entry.name for entry in store.list("")] == ["d"]
        store.put("b/c", b"again")
        assert store.get("b/c", max_bytes=MOST) == b"again"

    def test_threads_share_a_store(self, store: Store) -> None:
        def work(i: int) -> bytes:
            store.put(f"t/{i}", b"%d" % i)
            return store.get_ranges([ByteRange(f"t/{i}", 0, 1)])[0] + store.get(
                f"t/{i}", max_bytes=MOST
            )

        with ThreadPoolExecutor(8) as pool:
            got = list(pool.map(work, range(24)))
        assert got == [b"%c%d" % (str(i)[0].encode(), i) for i in range(24)]
        assert len(store.list("t")) == 24

    def test_a_pickled_store_is_the_same_place(self, store: Store) -> None:
        store.put("a", BODY)
        assert pickle.loads(pickle.dumps(store)).get("a", max_bytes=MOST) == BODY  # noqa: S301 (our own bytes)
