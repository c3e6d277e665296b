"""Scripts of ten and of 32 groups, from source files to batches, for every kind of image."""

from functools import cache
from itertools import product

import numpy as np
import pytest
from flows import DictStore, convert_to, dataset, originals, write_tree
from jpeg_files import KINDS, has_transcoder, jpegtran, make, needs_jpegtran
from many_groups import THIRTY_TWO
from small_sources import small_options, sources

from pcrstore import Mixture, NumpyLoader
from pcrstore.fidelity.mixture import draw, encode_word
from pcrstore.image.crops import CenterCrop
from pcrstore.jpeg.markers import EOI
from pcrstore.jpeg.parser import parse

pytestmark = pytest.mark.skipif(not has_transcoder(), reason="the C extension is not built")

SCRIPTS = {"standard-10": "standard-10", "32-groups": THIRTY_TWO}
FILES = {
    **{key: data for key, data in sources().items() if data.startswith(b"\xff\xd8")},
    **{f"train/kinds/{kind}.jpg": make(kind, 40, 51) for kind in KINDS},
    **{f"val/kinds/{kind}.jpg": make(kind, 33, 24, progressive=True) for kind in KINDS},
}
"""Grey, RGB, CMYK, YCCK and YCbCr of every sampling; sequential and progressive."""
EPOCHS = 4


@cache
def converted(script, layout, folder):
    store = DictStore()
    options = small_options(layout, "raise", script=SCRIPTS[script])
    convert_to(store, write_tree(folder, FILES), options)
    return dataset(store)


@pytest.fixture(params=[*product(SCRIPTS, ["record", "zarr"])], ids="-".join)
def ds(request, tmp_path_factory):
    return converted(*request.param, tmp_path_factory.getbasetemp() / "files")


def batches(ds, fidelity, *, n_epochs=1):
    """Position -> pixels, of each epoch."""
    with NumpyLoader(
        ds,
        batch_size=5,
        fidelity=fidelity,
        size=24,
        seed=3,
        crop=CenterCrop(),
        positions=True,
        n_threads=2,
    ) as loader:
        for _ in range(n_epochs):
            yield {
                int(i): pixels.copy()
                for images, _, positions in loader
                for i, pixels in zip(positions, images, strict=True)
            }


def test_every_group_of_every_image_has_scans_of_its_own(ds):
    everything = range(len(ds))
    assert ds.n_groups == {"standard-10": 10}.get(ds.manifest.script.name, 32)
    n_scans = [0] * len(ds)
    for k in range(1, ds.n_groups + 1):
        files = ds.fetch(everything, k)
        assert all(f.endswith(EOI) for f in files)
        before, n_scans = n_scans, [len(parse(f).scans) for f in files]
        assert all(n > m for n, m in zip(n_scans, before, strict=True))
    assert max(n_scans) == {10: 34, 32: 122}[ds.n_groups]  # CMYK: four for a line of AC


def test_every_fidelity_is_decoded(ds):
    everything = range(len(ds))
    full = ds.read(everything)
    errors = np.array(
        [
            [
                np.abs(pixels.astype(int) - last).mean()
                for pixels, last in zip(ds.read(everything, k), full, strict=True)
            ]
            for k in range(1, ds.n_groups + 1)
        ]
    )
    assert errors.shape == (ds.n_groups, len(FILES))
    assert (np.diff(errors.mean(axis=1)) <= 0).all()
    assert errors[-1].max() == 0 < errors[-2].max()


@needs_jpegtran
def test_the_full_files_have_the_coefficients_of_the_sources(ds):
    for key, data in zip(ds.keys, ds.fetch(range(len(ds))), strict=True):
        optimal = ["-copy", "none", "-optimize"]
        assert jpegtran(data, *optimal) == jpegtran(FILES[key], *optimal), key


def test_the_source_files_come_back(ds):
    assert originals(ds) == FILES


@pytest.mark.parametrize("per", ["sample", "record"])
def test_a_loader_mixes_all_fidelities(ds, per):
    n = ds.n_groups
    alone = [None, *(next(batches(ds, k)) for k in range(1, n + 1))]
    mixture = Mixture({1: 3.0, n: 2.0, **dict.fromkeys(range(2, n), 1.0)}, per=per)
    word, met = encode_word(mixture, ds.manifest), set()
    for epoch, got in enumerate(batches(ds, mixture, n_epochs=EPOCHS)):
        assert got.keys() == set(range(len(ds)))
        for i, pixels in got.items():
            if per == "sample":
                k = draw(word, np.array([i]), 0, seed=3, epoch=epoch, source=0)
                assert np.array_equal(pixels, alone[k][i])
                met.add(k)
            else:
                assert any(np.array_equal(pixels, one[i]) for one in alone[1:])
    assert per == "record" or len(met) > n / 2


def test_a_loader_takes_a_fidelity_for_each_image(ds):
    n = ds.n_groups
    each = [i % n + 1 for i in range(len(ds))]
    [got] = batches(ds, each)
    for k in {1, 2, n // 2, n - 1, n}:
        alone = next(batches(ds, k))
        for i in np.flatnonzero(np.array(each) == k).tolist():
            assert np.array_equal(got[i], alone[i])
