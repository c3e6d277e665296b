"""Batches hold the pixels, labels and positions that the plainest reading of a dataset gives."""

import gc
from collections import Counter
from multiprocessing import get_context

import numpy as np
import pytest
from flows import DictStore, convert_to, write_tree
from small_datasets import (
    RECORD,
    a_dataset,
    images_of,
    kept_while_waiting,
    of_images,
    opened,
    recorded,
    stored,
    threads,
    until,
)
from small_sources import EXIF, encoded

from pcrstore import (
    CenterCrop,
    Mix,
    Mixture,
    NumpyLoader,
    OptionError,
    Options,
    RandomResizedCrop,
    Squash,
)
from pcrstore.core.hashing import uniforms
from pcrstore.errors import ChecksumError, DecodeError
from pcrstore.image.decoder import decode
from pcrstore.image.rendering import Rendering, render_pixels
from pcrstore.sampling.order import crop_keys

N, G = 20, 5
DS = a_dataset(n=N)


pytestmark = pytest.mark.usefixtures("no_threads_left")


def a_loader(dataset=DS, batch_size=6, fidelity=3, size=16, **more):
    options = {"n_threads": 2, "positions": True, "shuffle_window": 4, **more}
    return NumpyLoader(dataset, batch_size, fidelity, size, **options)


def by_hand(ds, image, k, rendering, *, seed=0, epoch=0, source=0, repeat=0):
    """Fetch, decode whole, crop: one image at a time."""
    [pixels] = ds.read([image], fidelity=k)
    keys = crop_keys(seed, epoch, source, np.array([image]), repeat=repeat)
    draws = uniforms(keys, rendering.crop.n_draws)[0].tolist()
    out = np.empty((rendering.height, rendering.width, 3), np.uint8)
    render_pixels(pixels, rendering, draws, out)
    return out


@pytest.mark.parametrize("layout", ["record", "zarr"])
@pytest.mark.parametrize("fidelity", [1, 3, "full"])
@pytest.mark.parametrize("epoch", [0, 2])
@pytest.mark.parametrize("size", [16, (12, 20)])
def test_pixels_are_those_of_the_image_cropped_by_hand(layout, fidelity, epoch, size):
    ds = a_dataset(layout, opaque=(4, 11))
    rendering = Rendering(size=size, crop=RandomResizedCrop())
    loader = a_loader(ds, fidelity=fidelity, size=size, dct_scaling=False, seed=5)
    loader.set_epoch(epoch)
    seen = []
    for images, labels, positions in loader:
        assert images.shape == (len(labels), rendering.height, rendering.width, 3)
        assert (images.dtype, labels.dtype, positions.dtype) == (np.uint8, np.int64, np.int64)
        assert images.flags.c_contiguous
        assert labels.tolist() == ds.labels[positions].tolist()
        for row, i in zip(images, positions.tolist(), strict=True):
            expected = by_hand(ds, i, fidelity, rendering, seed=5, epoch=epoch)
            assert (row == expected).all()
        seen += positions.tolist()
    assert sorted(seen) == list(range(N))


@pytest.mark.parametrize(
    ("crop", "shuffle", "expected"),
    [
        (None, True, RandomResizedCrop()),
        (None, False, CenterCrop()),
        (Squash(), True, Squash()),
        (RandomResizedCrop(flip=1.0), False, RandomResizedCrop(flip=1.0)),
        (CenterCrop(fraction=0.5), False, CenterCrop(fraction=0.5)),
    ],
    ids=["shuffled", "in-order", "squash", "random-in-order", "centre"],
)
def test_which_crop_is_made(crop, shuffle, expected):
    loader = a_loader(crop=crop, shuffle=shuffle, dct_scaling=False)
    rendering = Rendering(size=16, crop=expected)
    for images, _, positions in loader:
        for row, i in zip(images, positions.tolist(), strict=True):
            assert (row == by_hand(DS, i, 3, rendering)).all()


def test_reduced_decoding_is_near_and_faster_sizes_are_the_same_image():
    full, reduced = (
        {
            int(i): row
            for images, _, at in a_loader(dct_scaling=d, size=6, shuffle=False)
            for row, i in zip(images, at, strict=True)
        }
        for d in (False, True)
    )
    difference = [np.abs(full[i].astype(int) - reduced[i]).mean() for i in range(N)]
    assert 0 < max(difference) < 12


def test_without_positions_there_are_two_arrays():
    assert [len(batch) for batch in a_loader(positions=False)] == [2, 2, 2, 2]


def test_without_shuffling_the_order_is_the_stored_one_in_every_epoch():
    loader = a_loader(shuffle=False)
    assert images_of(loader) == list(range(N))
    assert images_of(loader) == list(range(N))
    assert images_of(a_loader(shuffle=False, select=[7, 2, 19])) == [2, 7, 19]


def test_images_without_a_class_are_minus_one(tmp_path, monkeypatch):
    ds = converted(
        tmp_path, monkeypatch, {"a.jpg": encoded(1, (20, 20)), "b.jpg": encoded(2, (9, 9))}
    )
    assert [labels.tolist() for _, labels, _ in a_loader(ds)] == [[-1, -1]]


def converted(folder, monkeypatch, files):
    """A dataset of some files."""
    store = DictStore()
    convert_to(monkeypatch, store, write_tree(folder / "source", files), Options())
    return opened(store)


def test_images_are_turned_where_that_is_asked_for(tmp_path, monkeypatch):
    ds = converted(tmp_path, monkeypatch, {"a.jpg": encoded(1, (32, 16), exif=EXIF)})
    options = {"crop": Squash(), "dct_scaling": False, "fidelity": "full"}
    [(plain, *_)] = a_loader(ds, size=(16, 32), **options)
    [(turned, *_)] = a_loader(ds, size=(32, 16), apply_orientation=True, **options)
    assert (turned[0] == np.rot90(plain[0], -1)).all()
    assert (plain[0] == decode(ds.fetch([0])[0])).all()


# ---- selections


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"where": {"split": "val"}}, range(13, 20)),
        ({"where": {"label": ["cat"], "split": "train"}}, range(7)),
        ({"select": [5, 17, 4]}, [4, 5, 17]),
        ({"select": np.arange(0, 20, 3), "where": {"label": 1}}, [9, 12, 18]),
    ],
    ids=["split", "class-and-split", "positions", "both"],
)
@pytest.mark.parametrize("world", [1, 2])
def test_selections_are_read_and_nothing_else(options, expected, world):
    got = []
    for rank in range(world):
        for images, labels, at in a_loader(rank=rank, world_size=world, **options):
            assert labels.tolist() == DS.labels[at].tolist()
            assert len(images) == len(at)
            got += at.tolist()
    assert set(got) == set(expected)
    assert len(got) == -(-len(expected) // world) * world


def test_opaque_files_are_decoded_or_skipped():
    ds = a_dataset(opaque=(4, 11), text=(7,))
    bad = ds.keys.index("train/cat/007.jpg")
    good = [i for i in range(N) if i != bad]
    assert sorted(images_of(a_loader(ds, select=good))) == good
    skipped = sorted(images_of(a_loader(ds, opaque="skip")))
    assert len(skipped) == N - 3
    assert bad not in skipped
    with pytest.raises(DecodeError, match=f"image {bad}: "):
        list(a_loader(ds))


def test_a_mix_counts_positions_on_from_dataset_to_dataset():
    other = a_dataset(n=7, seed=50, script="standard")
    rendering = Rendering(size=16, crop=RandomResizedCrop())
    loader = a_loader(Mix({DS: 1, other: 1}, epoch_size=28), dct_scaling=False)
    seen = []
    for images, labels, at in loader:
        for row, label, i in zip(images, labels.tolist(), at.tolist(), strict=True):
            source, ds, image = (0, DS, i) if i < N else (1, other, i - N)
            assert label == int(ds.labels[image])
            crops = [by_hand(ds, image, 3, rendering, source=source, repeat=r) for r in (0, 1)]
            assert any((row == crop).all() for crop in crops)
        seen += at.tolist()
    assert sorted(i - N for i in seen if i >= N) == sorted([*range(7), *range(7)])
    assert sum(i < N for i in seen) == len({i for i in seen if i < N}) == 14


def test_a_mixture_gives_each_record_its_own_fidelity():
    fidelities = Mixture({1: 1, 5: 1})
    rendering = Rendering(size=16, crop=RandomResizedCrop())
    drawn = {}
    for images, _, at in a_loader(fidelity=fidelities, dct_scaling=False):
        for row, i in zip(images, at.tolist(), strict=True):
            of = {k for k in (1, 5) if (row == by_hand(DS, i, k, rendering)).all()}
            assert of
            drawn.setdefault(i, of)
    records = record_numbers(DS)
    for record in set(records):
        mine = [drawn[i] for i in range(N) if records[i] == record]
        assert set.intersection(*mine)
    assert {1} in drawn.values()
    assert {5} in drawn.values()


def test_each_image_at_a_fidelity_of_its_own():
    each = [i % G + 1 for i in range(N)]
    rendering = Rendering(size=16, crop=CenterCrop())
    for layout in ("record", "zarr"):
        ds = a_dataset(layout)
        for images, _, at in a_loader(ds, fidelity=each, shuffle=False, dct_scaling=False):
            for row, i in zip(images, at.tolist(), strict=True):
                assert (row == by_hand(ds, i, each[i], rendering)).all()


def record_numbers(ds):
    """The record of every image."""
    out = []
    for p in range(len(ds.manifest.parts)):
        [part] = ds.index.parts([p])
        for n in np.diff(part.image_edges).tolist():
            assert n <= RECORD
            out += [(p, len(out))] * n
    return out


# ---- elsewhere


def send_two_epochs(loader, back):
    """Send the batches of an epoch, and those of the next one at another fidelity."""
    first = list(loader)
    loader.fidelity = 5
    back.put([*first, *loader])


@pytest.mark.slow
def test_a_process_to_which_it_was_sent_reads_the_same():
    context = get_context("spawn")
    back = context.SimpleQueue()
    loader = a_loader(opened(DictStore(stored())))
    process = context.Process(target=send_two_epochs, args=(loader, back))
    process.start()
    there = back.get()
    process.join()
    here = list(loader)  # whose fidelity is its own
    loader.fidelity = 5
    for a, b in zip(there, [*here, *loader], strict=True):
        assert all((x == y).all() for x, y in zip(a, b, strict=True))


# ---- memory


def test_batches_that_are_kept_are_not_overwritten():
    kept = list(a_loader())
    again = {int(i): row for images, _, at in a_loader() for row, i in zip(images, at, strict=True)}
    for images, _, at in kept:
        for row, i in zip(images, at.tolist(), strict=True):
            assert (row == again[i]).all()


@pytest.mark.parametrize("positions", [False, True])
def test_no_batch_is_kept_while_the_next_is_waited_for(monkeypatch, positions):
    kept = kept_while_waiting(monkeypatch)
    assert len(list(map(len, a_loader(positions=positions)))) == 4
    assert kept == [False]


# ---- cache


def group_bytes(ds, first, last):
    """Bytes of groups `first` to `last` of all records, without headers, by the index."""
    total = 0
    for p in range(len(ds.manifest.parts)):
        [part] = ds.index.parts([p])
        total += int(part.records["length"][:, first - 1 : last].sum())
    return total


@pytest.mark.parametrize("opaque", [(), (4, 11), tuple(range(N))], ids=["none", "some", "all"])
@pytest.mark.parametrize("layout", ["record", "zarr"])
def test_a_warm_cache_reads_nothing_and_more_fidelity_reads_the_rest(layout, opaque, tmp_path):
    ds, store = recorded(layout, opaque=opaque)
    loader = a_loader(ds, fidelity=2, cache=tmp_path / "cache")
    images_of(loader)
    assert of_images(store)
    assert loader.stats().cache_hits == 0
    store.clear()
    assert sorted(images_of(loader)) == list(range(N))
    assert of_images(store) == []
    assert loader.stats().cache_hits > 0

    loader.fidelity = 5
    assert sorted(images_of(loader)) == list(range(N))
    moved = sum(b - a for _, a, b in of_images(store))
    assert moved == group_bytes(ds, 3, 5)
    store.clear()
    fresh = a_loader(ds, fidelity=5, cache=tmp_path / "cache")
    clean = a_loader(a_dataset(layout, opaque=opaque), fidelity=5)
    for a, b in zip(fresh, clean, strict=True):
        assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert of_images(store) == []
    stats = fresh.stats()
    assert stats.bytes == sum(r.n_bytes for r in store.named("get_range"))
    headers = ds.manifest.totals.headers if layout == "record" else 0
    assert stats.cache_bytes == group_bytes(ds, 1, 5) + headers


def test_damage_in_the_cache_is_read_again(tmp_path):
    ds, store = recorded()
    folder = tmp_path / "cache"
    expected = list(a_loader(ds, cache=folder))
    bodies = [p for p in folder.rglob("*") if p.is_file() and not p.read_bytes().isascii()]
    assert bodies
    for path in bodies:  # what the cache knows of itself is text
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    store.clear()
    for a, b in zip(a_loader(ds, cache=folder), expected, strict=True):
        assert all((x == y).all() for x, y in zip(a, b, strict=True))
    assert of_images(store)
    store.clear()
    list(a_loader(ds, cache=folder))
    assert of_images(store) == []


# ---- options and ends


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_threads": 0}, "n_threads must be an integer of at least 1, got 0"),
        ({"n_threads": -1}, "n_threads must be an integer of at least 1, got -1"),
        ({"n_threads": "2"}, "n_threads must be an integer of at least 1, got '2'"),
        ({"seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"seed": 1.5}, r"seed must be .* got 1\.5"),
        ({"shuffle_window": 0}, "shuffle_window must be an integer of at least 1, got 0"),
        ({"shuffle_window": 1.5}, r"shuffle_window must be .* got 1\.5"),
        ({"shuffle_window": 2**24 + 1}, "shuffle_window must be at most"),
        ({"crop": "center"}, "crop must be a crop, .* got 'center'"),
        ({"crop": ""}, "crop must be a crop, .* got ''"),
        ({"num_workers": 2}, "NumpyLoader has no option num_workers"),
        ({"window": 2, "cropp": None}, "NumpyLoader has no option cropp"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 2.5}, "batch_size must be"),
        ({"rank": 1}, r"rank must be in 0\.\.0, got 1"),
        ({"rank": -1}, r"rank must be in 0\.\.0, got -1"),
        ({"rank": 2, "world_size": 2}, r"rank must be in 0\.\.1, got 2"),
        ({"world_size": 0}, "world_size must be"),
        ({"uneven": "both"}, "uneven must be"),
        ({"size": (0, 5)}, "size must be"),
    ],
    ids=str,
)
def test_options_that_cannot_be_used(options, says):
    with pytest.raises(OptionError, match=says):
        a_loader(**options)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("batch", [1, 64])
def test_a_few_images_and_many_threads(n, batch):
    loader = a_loader(select=range(n), batch_size=batch, n_threads=8, prefetch=1)
    for _ in range(2):
        assert sorted(images_of(loader)) == list(range(n))


def test_a_loop_that_fails_leaves_no_threads():
    def fail():
        for _ in a_loader(batch_size=1):
            assert threads()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    gc.collect()
    assert until(lambda: not threads())


def test_a_loader_that_is_dropped_within_a_loop_leaves_no_threads():
    loader = a_loader(batch_size=1)
    batches = iter(loader)
    next(batches)
    del loader
    assert len(list(batches)) == N - 1
    batches = iter(a_loader(batch_size=1))
    next(batches)
    del batches
    assert until(lambda: not threads())


def test_what_cannot_be_decoded_is_left_out_on_request(caplog):
    ds = a_dataset(text=(7, 8))
    bad = {i for i, key in enumerate(ds.keys) if key[-7:-4] in ("007", "008")}
    with pytest.raises(DecodeError, match="|".join(f"image {i}: " for i in bad)):
        list(a_loader(ds))
    loader = a_loader(ds, batch_size=6, on_error="skip")
    batches = [tuple(np.copy(a) for a in batch) for batch in loader]
    assert [len(labels) for _, labels, _ in batches] == [6, 6, 6, 2]
    seen = Counter(images_of(batches))
    assert set(seen) == set(range(N)) - bad
    assert sum(seen.values()) == N
    assert loader.stats().skipped == 2
    assert "2 skipped" in str(loader.stats())
    assert len(caplog.records) == 2
    assert all(f"image {i}: " in caplog.text for i in bad)
    wanted = np.asarray(ds.labels)
    for images, labels, positions in batches:
        assert labels.tolist() == wanted[positions].tolist()
        for a in range(len(positions)):
            for b in range(len(positions)):
                assert positions[a] != positions[b] or (images[a] == images[b]).all()


def test_a_batch_of_nothing_else_is_an_error_all_the_same():
    ds = a_dataset(text=(7, 8))
    bad = ds.keys.index("train/cat/007.jpg")
    with pytest.raises(DecodeError, match=f"image {bad}: "):
        list(a_loader(ds, batch_size=1, select=[bad], on_error="skip"))


def test_damage_in_the_store_is_never_left_out():
    objects = dict(stored())
    name = next(n for n in objects if n.startswith("objects/"))
    body = bytearray(objects[name])
    body[len(body) // 2] ^= 1
    objects[name] = bytes(body)
    with pytest.raises(ChecksumError):
        list(a_loader(opened(DictStore(objects)), fidelity=5, on_error="skip"))
