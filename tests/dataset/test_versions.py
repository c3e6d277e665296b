"""One conditional create makes a version visible, and of many writers one wins."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from flows import RECORD, DictStore, convert_to, dataset, memory, photos, put_all, write_tree
from msgspec.structs import replace

from pcrstore.dataset.versions import (
    commit,
    list_versions,
    new_writer_id,
    newest_version,
    read_manifest,
    write_hint,
)
from pcrstore.errors import (
    ChecksumError,
    DatasetExistsError,
    FormatError,
    NotFoundError,
    TransientStoreError,
)
from pcrstore.format.manifest import encode_latest, encode_manifest
from pcrstore.format.names import LATEST, manifest_name
from pcrstore.storage.local import LocalStore
from pcrstore.storage.open import open_store
from pcrstore.testing import Fault, FaultyStore, RecordingStore


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    tree = write_tree(tmp_path_factory.mktemp("source"), photos(3))
    store = DictStore()
    convert_to(store, tree, RECORD)
    return dataset(store).manifest


def ours(manifest, *, content="00"):
    """The manifest of a new attempt; the same content unless said otherwise."""
    conversions = (replace(manifest.conversions[0], id=content * 16),)
    return replace(manifest, writer=new_writer_id(), conversions=conversions)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_of_sixteen_writers_of_other_content_one_wins(manifest, where, tmp_path):
    for round_ in range(6):
        url = memory() if where == "memory" else str(tmp_path / str(round_))
        start = Barrier(16)

        def race(i):
            mine = ours(manifest, content=f"{i:02x}")
            start.wait()  # noqa: B023 - used within this round
            try:
                done = commit(open_store(url), mine)  # noqa: B023
            except DatasetExistsError:
                return False, mine.writer
            return done.writer == mine.writer, mine.writer

        with ThreadPoolExecutor(16) as pool:
            results = list(pool.map(race, range(16)))
        assert sum(won for won, _ in results) == 1
        store = open_store(url)
        assert [w for won, w in results if won] == [read_manifest(store, 1).writer]
        assert list_versions(store) == [1]
        assert store.get(LATEST, max_bytes=64) == encode_latest(1)


def test_of_sixteen_writers_of_the_same_content_one_wins_and_none_fails(manifest):
    store = DictStore()
    start = Barrier(16)

    def race(_):
        mine = ours(manifest)
        start.wait()
        return commit(store, mine).writer, mine.writer

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(race, range(16)))
    assert sum(found == own for found, own in results) == 1
    assert len({found for found, _ in results}) == 1


def _process(url, manifest, content, start, results):
    mine = ours(manifest, content=content)
    start.wait()
    try:
        results.put((commit(open_store(url), mine).writer == mine.writer, mine.writer))
    except DatasetExistsError:
        results.put((False, mine.writer))


@pytest.mark.slow
def test_of_four_processes_on_a_disk_one_wins(manifest, tmp_path):
    context = multiprocessing.get_context("spawn")
    for round_ in range(2):
        start, results = context.Barrier(4), context.Queue()
        url = str(tmp_path / str(round_))
        processes = [
            context.Process(target=_process, args=(url, manifest, f"{i:02x}", start, results))
            for i in range(4)
        ]
        for p in processes:
            p.start()
        found = [results.get(timeout=30) for _ in processes]
        for p in processes:
            p.join(timeout=30)
        assert sum(won for won, _ in found) == 1
        assert [w for won, w in found if won] == [read_manifest(open_store(url), 1).writer]


def test_a_lost_reply_is_resolved_by_the_writers_id(manifest):
    store = DictStore()
    mine = ours(manifest)
    done = commit(FaultyStore(store, {0: Fault.LOST_REPLY}), mine)
    assert done.writer == mine.writer
    assert read_manifest(store, 1).writer == mine.writer
    assert store.get(LATEST, max_bytes=64) == encode_latest(1)


def test_a_lost_reply_behind_another_writer_is_a_lost_race(manifest):
    store = DictStore()
    first = ours(manifest, content="aa")
    commit(store, first)
    with pytest.raises(DatasetExistsError, match="another writer"):
        commit(FaultyStore(store, {0: Fault.LOST_REPLY}), ours(manifest, content="bb"))
    same = commit(FaultyStore(store, {0: Fault.LOST_REPLY}), ours(manifest, content="aa"))
    assert same.writer == first.writer


def test_a_lost_request_is_an_error_and_commits_nothing(manifest):
    store = DictStore()
    with pytest.raises(TransientStoreError):
        commit(FaultyStore(store, {0: Fault.LOST_REQUEST}), ours(manifest))
    assert newest_version(store) == 0


def test_an_outcome_that_cannot_be_read_back_is_an_error_not_a_guess(manifest):
    store = DictStore()
    faults = {0: Fault.LOST_REPLY, 1: Fault.LOST_REQUEST}
    with pytest.raises(TransientStoreError):
        commit(FaultyStore(store, faults), ours(manifest))
    assert newest_version(store) == 1


def test_a_commit_does_not_need_its_hint(manifest):
    store = DictStore()
    faults = {1: Fault.LOST_REQUEST, 2: Fault.LOST_REQUEST}
    mine = ours(manifest)
    assert commit(FaultyStore(store, faults), mine).writer == mine.writer
    assert newest_version(store) == 1


def test_the_hint_only_goes_forward():
    store = DictStore()
    store.put(LATEST, encode_latest(7))
    write_hint(store, 3)
    assert store.get(LATEST, max_bytes=64) == encode_latest(7)
    write_hint(store, 8)
    assert store.get(LATEST, max_bytes=64) == encode_latest(8)
    store.put(LATEST, b"damaged")
    write_hint(store, 2)
    assert store.get(LATEST, max_bytes=64) == encode_latest(2)


def put_versions(store, manifest, *numbers):
    for n in numbers:
        store.put(manifest_name(n), encode_manifest(replace(manifest, version=n)))


def test_the_newest_version_is_one_list(manifest):
    store = RecordingStore(DictStore())
    put_versions(store, manifest, 1, 2, 10, 11)
    store.put("manifests/zzz.pcrm", b"no manifest's name")
    store.clear()
    assert newest_version(store) == 11
    assert [r.op for r in store.requests] == ["list"]
    assert list_versions(store) == [11, 10, 2, 1]


class Web(DictStore):
    """A plain web server: it cannot list."""

    can_list = False

    def list(self, prefix):
        raise AssertionError(f"listed {prefix}")


@pytest.mark.parametrize(("hint", "there", "found"), [(1, 1, 1), (1, 5, 5), (4, 4, 4)])
def test_without_list_the_hint_and_probing_find_the_newest(manifest, hint, there, found):
    store = Web()
    put_versions(store, manifest, *range(1, there + 1))
    store.put(LATEST, encode_latest(hint))
    assert newest_version(store) == found


@pytest.mark.parametrize("hint", [None, b"pcrstore-latest 2 crc32c=00000000\n", b"", b"x" * 65])
def test_without_list_and_a_hint_that_can_be_read_versions_are_tried_from_the_first(manifest, hint):
    store = Web()
    if hint is not None:
        store.put(LATEST, hint)
    assert newest_version(store) == 0
    put_versions(store, manifest, 1, 2)
    if hint is not None:
        store.put(LATEST, hint)
    else:
        store.delete([LATEST])
    assert newest_version(store) == 2


def test_a_manifest_that_arrives_damaged_is_read_again(manifest):
    store = DictStore()
    put_versions(store, manifest, 1)
    assert read_manifest(FaultyStore(store, {0: Fault.FLIPPED_BIT}), 1) == manifest
    twice = {0: Fault.FLIPPED_BIT, 1: Fault.FLIPPED_BIT}
    with pytest.raises(ChecksumError, match=r"fffffffe\.pcrm"):
        read_manifest(FaultyStore(store, twice), 1)


def test_a_manifest_of_another_version_is_refused(manifest):
    store = DictStore()
    store.put(manifest_name(2), encode_manifest(manifest))
    with pytest.raises(FormatError, match="version"):
        read_manifest(store, 2)
    with pytest.raises(NotFoundError):
        read_manifest(store, 1)


HUGE = 1 << 40


class WebFolder(LocalStore):
    """A folder that cannot be listed."""

    can_list = False


READS = {
    "manifest": (manifest_name(1), lambda store: read_manifest(store, 1), 16 << 20),
    "probed": (manifest_name(2), newest_version, 16 << 20),
}


@pytest.mark.parametrize(("name", "read", "most"), READS.values(), ids=READS)
def test_a_huge_manifest_is_refused_unread(tmp_path, name, read, most):
    store = WebFolder(str(tmp_path))
    put_all(store, {LATEST: encode_latest(1), manifest_name(1): b"", name: b""})
    os.truncate(tmp_path / name, HUGE)  # a hole
    with pytest.raises(FormatError, match=f"{name}: expected at most {most} bytes, got {HUGE}$"):
        read(store)
