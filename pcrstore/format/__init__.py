"""FORMAT.md as code: bytes of stored objects in, values out, and back.

    names        names of all objects
    manifest     a version: script, totals, classes, columns, index parts
      columns        types, shapes and ranges of columns     column_values  their bytes
      index          types of an index part: directory, runs, blocks, pages
      index_pages    their bytes                  index_rows     rows of records, gathered or read
    json_schema  the JSON of manifest and directory, for other readers
    record       header and regions of a record: all cells of group 1, of group 2, ...
    placement    byte ranges of those regions, in the record and the zarr layout
    zarr_layout  metadata and side arrays of the zarr layout

    manifest ──▶ PartEntry ──▶ Directory ──▶ rows ──▶ Placement ──▶ ranges ──▶ Header ──▶ cells

All is pure. Every byte is covered by a checksum, which is checked before the byte is used, and by
numbers that are checked before anything is allocated by them; wrong ones are FormatErrors that name
the object. Equal values give equal bytes. The wing knows nothing of JPEG but the number of groups.

An example: a record of two images in two groups, of which a read at fidelity 1 takes a prefix.

    >>> images = [
    ...     RecordImage(groups=(b"aaa", b"aa"), restore=b"r", opaque=False),
    ...     RecordImage(groups=(b"bbbbb", b"bbbb"), restore=b"r", opaque=False),
    ... ]
    >>> header, regions = build_record(images, seed=7)
    >>> header.size, regions
    (45, [b'aaabbbbb', b'aabbbb', b'rr'])

Bytes 0 to 45 + 8 of the record are its fidelity 1: `aaa` and `bbbbb`, each with a checksum.
"""

from pcrstore.format.column_values import masked, null_values
from pcrstore.format.columns import (
    BYTES,
    COLUMNS,
    ENCODED,
    FORMATS,
    JPEG,
    JSON,
    MAX_KEY,
    NO_LABEL,
    NO_SPLIT,
    OPAQUE,
    UTF8,
    Column,
    Ranges,
    Values,
)
from pcrstore.format.index import (
    CODECS,
    COLUMN,
    HEADERS,
    LAYOUTS,
    MAX_PART_IMAGES,
    MAX_PART_KEYS,
    MAX_PIECES,
    RECORDS,
    RESTORE,
    RESTORE_DTYPE,
    TABLE,
    Block,
    Directory,
    Page,
    PartEntry,
    Run,
    check_records,
    record_dtype,
)
from pcrstore.format.index_pages import decode_directory, decode_page, rows_as
from pcrstore.format.index_rows import Rows, concat, decode_part, header_edges
from pcrstore.format.manifest import (
    MAX_CHECKED,
    MAX_CLASSES,
    MAX_LATEST,
    MAX_MANIFEST,
    MAX_NAME,
    MAX_SPLITS,
    MS_SSIM,
    Checked,
    Conversion,
    Manifest,
    Measurement,
    ScriptEntry,
    Totals,
    decode_latest,
    decode_manifest,
    encode_latest,
    encode_manifest,
)
from pcrstore.format.names import (
    FOLDERS,
    LATEST,
    MANIFESTS,
    MAX_VERSION,
    OBJECTS,
    STAGING,
    array_name,
    chunk_key,
    index_name,
    is_note_name,
    listing_name,
    manifest_name,
    object_name,
    report_name,
    staging_folder,
    unit_name,
    version_of,
    zarr_group_name,
)
from pcrstore.format.placement import (
    ArrayPlacement,
    ObjectPlacement,
    Placement,
    chunk_ranges,
)
from pcrstore.format.record import (
    MAX_IMAGES,
    Header,
    RecordImage,
    build_record,
    parse_header,
)
from pcrstore.format.zarr_layout import (
    CHUNK_BYTES,
    ROOT_JSON,
    ROOTS,
    ArraySpec,
    SideRows,
    even_chunk,
    region_specs,
    side_objects,
    unbound_checksums,
    zarr_group_json,
)

__all__ = [
    "BYTES",
    "CHUNK_BYTES",
    "CODECS",
    "COLUMN",
    "COLUMNS",
    "ENCODED",
    "FOLDERS",
    "FORMATS",
    "HEADERS",
    "JPEG",
    "JSON",
    "LATEST",
    "LAYOUTS",
    "MANIFESTS",
    "MAX_CHECKED",
    "MAX_CLASSES",
    "MAX_IMAGES",
    "MAX_KEY",
    "MAX_LATEST",
    "MAX_MANIFEST",
    "MAX_NAME",
    "MAX_PART_IMAGES",
    "MAX_PART_KEYS",
    "MAX_PIECES",
    "MAX_SPLITS",
    "MAX_VERSION",
    "MS_SSIM",
    "NO_LABEL",
    "NO_SPLIT",
    "OBJECTS",
    "OPAQUE",
    "RECORDS",
    "RESTORE",
    "RESTORE_DTYPE",
    "ROOTS",
    "ROOT_JSON",
    "STAGING",
    "TABLE",
    "UTF8",
    "ArrayPlacement",
    "ArraySpec",
    "Block",
    "Checked",
    "Column",
    "Conversion",
    "Directory",
    "Header",
    "Manifest",
    "Measurement",
    "ObjectPlacement",
    "Page",
    "PartEntry",
    "Placement",
    "Ranges",
    "RecordImage",
    "Rows",
    "Run",
    "ScriptEntry",
    "SideRows",
    "Totals",
    "Values",
    "array_name",
    "build_record",
    "check_records",
    "chunk_key",
    "chunk_ranges",
    "concat",
    "decode_directory",
    "decode_latest",
    "decode_manifest",
    "decode_page",
    "decode_part",
    "encode_latest",
    "encode_manifest",
    "even_chunk",
    "header_edges",
    "index_name",
    "is_note_name",
    "listing_name",
    "manifest_name",
    "masked",
    "null_values",
    "object_name",
    "parse_header",
    "record_dtype",
    "region_specs",
    "report_name",
    "rows_as",
    "side_objects",
    "staging_folder",
    "unbound_checksums",
    "unit_name",
    "version_of",
    "zarr_group_json",
    "zarr_group_name",
]
