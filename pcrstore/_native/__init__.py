"""The C transcoder, where it could be built. `pcrstore.jpeg.transcoder` is its only user.

    jpeg_io.c      libjpeg: errors, limits, a reader and a writer of coefficients; no Python
    transcoder.c   jobs made of them, the comparison that proves a result, and the Python functions

A progressive JPEG of the script's scans is written from the source's coefficients, read back, and
compared with the source. Warnings of libjpeg are failures, and no job touches a global variable, so
that any number of threads can run one each, without the GIL.
"""
