"""Conversion: images of a source become one version of a dataset.

    sources/    the interface of a source: a list of files, and the bytes of each; class folders
    options     the options, which with the source decide the stored bytes
    converter   `convert`: checks the call, lists the source, runs a job
    job         one conversion, from listing to manifest; the modules below are its steps
    ids         hashes of options and listing, which name the objects
    packing     files -> records -> units
    record_builder   one record of some files, in a worker process; `measure` its fidelities
    writer      the interface of the two layouts: `record_writer`, `array_writer`
    uploads     objects of units, stored in the background
    journal     finished units, for a run that goes on after a kill
    manifest_builder   index parts, report and manifest of all units
    report      the result of `convert`, stored beside the dataset

    source ──list──▶ packing ──▶ record_builder (workers) ──▶ writer ──▶ uploads ──▶ journal
                                                                             │ all units
                                                       commit ◀── manifest_builder

Guarantees. The source is never written to. Every original is given back byte for byte, or is named
in the report. The same source and options give the same bytes, whatever the number of workers and
however often a run was killed. Readers see the version whole or not at all.

Example: five files of 2 bytes, two images a record, 8 bytes a unit. The first unit is an object of
two records; a run that is killed while it builds the second one goes on with file 4.

    >>> from pcrstore.conversion.packing import pack
    >>> units = pack([2] * 5, record_bytes=None, record_images=2, object_bytes=8)
    >>> [[list(range(r.start, r.stop)) for r in unit.records] for unit in units]
    [[[0, 1], [2, 3]], [[4]]]
"""

from pcrstore.conversion.converter import convert
from pcrstore.conversion.options import OBJECT_BYTES, POLICIES, RECORD_BYTES, Options
from pcrstore.conversion.report import Report
from pcrstore.conversion.sources import Listing, Source, SourceFile

__all__ = [
    "OBJECT_BYTES",
    "POLICIES",
    "RECORD_BYTES",
    "Listing",
    "Options",
    "Report",
    "Source",
    "SourceFile",
    "convert",
]
