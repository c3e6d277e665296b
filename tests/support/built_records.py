"""Records that a builder makes of a few photos."""

from flows import DictStore, photo

from pcrstore.conversion.array_writer import ArrayWriter
from pcrstore.conversion.ids import Ids
from pcrstore.conversion.packing import Unit
from pcrstore.conversion.record_builder import RecordBuilder, RecordTask
from pcrstore.conversion.sources.base import SourceFile
from pcrstore.conversion.sources.folder import FolderSource
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


def build(files, policy="raise", *, source=None, **kwargs):
    builder = RecordBuilder(
        source=source or FolderSource(DictStore(files)),
        script=SCRIPT,
        policy=policy,
        limits=kwargs.pop("limits", Limits()),
        encode_quality=90,
    )
    return builder.build(task(files, **kwargs))


GOOD = [(f"{i}.jpg", photo(i)) for i in range(4)]
IDS = Ids(option_text="", policy="skip", content="c" * 32, conversion="d" * 32)
UNIT = Unit(number=0, records=(range(4),), first_record=0)


def units(n):
    """Units of one record of one file each."""
    return [Unit(number=i, records=(range(i, i + 1),), first_record=i) for i in range(n)]


def array_writer(*, chunk_bytes, hold=False):
    return ArrayWriter(
        ids=IDS, group_labels=SCRIPT.labels, classes=("c",), chunk_bytes=chunk_bytes, hold=hold
    )
