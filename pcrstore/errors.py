"""Errors, grouped by what a handler does about them.

    PcrstoreError
    ├── JpegError(ValueError)            this image: skip it, keep it opaque, or look at it
    │   ├── UnsupportedJpegError         a process we do not transcode (arithmetic, lossless)
    │   ├── DamagedJpegError             libjpeg complained, or a marker is out of place
    │   ├── LimitError                   over the pixel, scan, byte or memory limit
    │   └── DecodeError                  a decoder refused the bytes
    ├── FormatError(ValueError)          this dataset: distrust it
    │   ├── ChecksumError                bytes that are not what was written
    │   └── UnsupportedFormatError       written by a newer pcrstore
    ├── UsageError(ValueError)           this call: fix it
    │   ├── FidelityError                fidelity outside 1..G
    │   ├── ScriptError                  a scan script that breaks a rule of T.81
    │   ├── OptionError                  an option, URL or argument that cannot be used
    │   ├── MissingDependencyError(ImportError)   name the package to install
    │   ├── DatasetExistsError(FileExistsError)  the destination holds other content
    │   └── SourceChangedError           the source changed under a resumed conversion
    ├── WorkerDiedError(RuntimeError)    a process of a loader: too little memory, or killed
    ├── SourceError(ValueError)          some source files cannot be converted; lists them
    └── StoreError(OSError)              the store: retry, or fix access
        ├── NotFoundError(FileNotFoundError)
        ├── AccessDeniedError(PermissionError)
        └── TransientStoreError          throttled, reset, stalled or short; retries are used up

Each is also the builtin that callers already catch. Messages say what was expected and what was
got, and name the object, file or option. None of them carries a credential.
"""

__all__ = [
    "AccessDeniedError",
    "ChecksumError",
    "DamagedJpegError",
    "DatasetExistsError",
    "DecodeError",
    "FidelityError",
    "FormatError",
    "JpegError",
    "LimitError",
    "MissingDependencyError",
    "NotFoundError",
    "OptionError",
    "PcrstoreError",
    "ScriptError",
    "SourceChangedError",
    "SourceError",
    "StoreError",
    "TransientStoreError",
    "UnsupportedFormatError",
    "UnsupportedJpegError",
    "UsageError",
    "WorkerDiedError",
]


class PcrstoreError(Exception):
    """Root of every error that pcrstore raises on purpose."""


class JpegError(PcrstoreError, ValueError):
    """One image cannot be used as it is; the others can."""


class UnsupportedJpegError(JpegError):
    """A valid file of a kind that cannot be transcoded losslessly, or not a JPEG at all."""


class DamagedJpegError(JpegError):
    """libjpeg warned or failed, or the markers do not add up."""


class LimitError(JpegError):
    """Over a limit on pixels, scans, bytes or memory; refused before any work started."""


class DecodeError(JpegError):
    """A decoder refused the bytes, though their checksum is right."""


class FormatError(PcrstoreError, ValueError):
    """Stored bytes are not what the format allows."""


class ChecksumError(FormatError):
    """Stored bytes are not what was written there."""


class UnsupportedFormatError(FormatError):
    """A format version or feature that this release does not know."""


class UsageError(PcrstoreError, ValueError):
    """The call is wrong."""


class FidelityError(UsageError):
    """A fidelity that the dataset does not have."""


class ScriptError(UsageError):
    """A scan script that does not parse or breaks a rule of T.81."""


class OptionError(UsageError):
    """An argument, option or URL that cannot be used."""


class MissingDependencyError(UsageError, ImportError):
    """An optional part is not installed; the message names the package."""


class DatasetExistsError(UsageError, FileExistsError):
    """The destination already holds other content."""


class SourceChangedError(UsageError):
    """The source changed since the conversion that is being resumed began."""


class SourceError(PcrstoreError, ValueError):
    """Some source files cannot be converted; nothing was committed."""


class WorkerDiedError(PcrstoreError, RuntimeError):
    """A worker process of a loader ended without a word."""


class StoreError(PcrstoreError, OSError):
    """The store failed or could not be reached."""


class NotFoundError(StoreError, FileNotFoundError):
    """No such object, bucket or dataset."""


class AccessDeniedError(StoreError, PermissionError):
    """The store refused the credentials, or there were none."""


class TransientStoreError(StoreError):
    """Throttled, reset, stalled or cut short; worth another try later."""
