# Errors are those of pcrstore.errors, with libjpeg's own words.

from typing import TypeAlias

# Packed scans, packed tables, DC slots, restart interval in MCUs (0: none).
#
# Packed scans are 9 bytes each: number of components, four component positions (unused ones 0),
# Ss, Se, Ah, Al. Packed tables are 544 bytes for each component: its DC and its AC table, each as
# the 16 counts of a DHT segment and 256 symbols, zero-filled. None: optimal tables (always, in
# progressive mode); then the DC slots, the DC table number of each component in a byte, say which
# components share one.
Coding: TypeAlias = tuple[bytes, bytes | None, bytes, int]

# Write the coefficients of `source` by the packed `scans`, and check the result. Returns a whole
# JPEG with `insert` behind SOI; for each of its scans one past its last byte; and, where `coding`
# is given, the *result's* coefficients coded that way: that file without its entropy-coded
# segments, and those segments, or None when libjpeg cannot.
def transcode(
    source: bytes,
    insert: bytes,
    scans: bytes,
    coding: Coding | None,
    max_pixels: int,
    max_scans: int,
    max_memory: int,
    /,
) -> tuple[bytes, list[int], tuple[bytes, list[bytes]] | None]: ...

# The entropy-coded segments of the coefficients of `jpeg`, coded as `coding` says.
def reencode(
    jpeg: bytes, coding: Coding, max_pixels: int, max_scans: int, max_memory: int, /
) -> list[bytes]: ...
