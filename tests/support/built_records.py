"""Records that a builder makes of a few photos."""

from flows import DictStore, photo

from pcrstore.conversion.record_builder import RecordBuilder, RecordTask
from pcrstore.conversion.sources.folder import SourceFile
from pcrstore.jpeg.scan_script import builtin
from pcrstore.jpeg.transcoder import Limits

SCRIPT = builtin("sa5")


def task(files, **kwargs):
    return RecordTask(
        ordinal=kwargs.get("ordinal", 0),
        seed=kwargs.get("seed", 7),
        files=tuple(
            SourceFile(key=k, label="c", split=None, n_bytes=len(d), stamp="") for k, d in files
        ),
        labels=tuple(range(len(files))),
        splits=(255,) * len(files),
        measured=(True,) * len(files),
    )


def build(files, policy="raise", *, store=None, n_readers=1, **kwargs):
    builder = RecordBuilder(
        source=store or DictStore(files),
        script=SCRIPT,
        policy=policy,
        limits=kwargs.pop("limits", Limits()),
        encode_quality=90,
        n_readers=n_readers,
    )
    return builder.build(task(files, **kwargs))


GOOD = [(f"{i}.jpg", photo(i)) for i in range(4)]
