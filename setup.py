"""Build the C transcoder where it can be built; install without it where it cannot.

Reading needs no extension, so a missing compiler or missing libjpeg headers must not fail the
install: `optional=True` turns a failed build into a warning, and `pcrstore.jpeg.transcoder` names
the package to install when a conversion is asked for.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "pcrstore._native._transcoder",
            sources=["pcrstore/_native/transcoder.c", "pcrstore/_native/jpeg_io.c"],
            depends=["pcrstore/_native/jpeg_io.h"],  # rebuilds, and is part of a source package
            libraries=["jpeg"],
            extra_compile_args=["-O2", "-Wall", "-Wextra"],
            optional=True,
        )
    ]
)
