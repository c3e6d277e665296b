"""An environment of their own for the peers, so that none of them touches the project's.

Made once in the work folder. torch comes first, of the version that pip can have for CPUs alone
where one is on disk; what decodes is of the versions that run here. pcrstore itself is found
through PYTHONPATH.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

from benchmarks.results import ROOT

TORCH: Final = "2.13.0"
PEERS: Final = ("mosaicml-streaming==0.13", "webdataset==1.0.2", "litdata==0.2.76")
_SAME: Final = ("simplejpeg", "pillow", "obstore", "google-crc32c")
_MORE: Final = ("click", "fsspec", "tqdm", "s3fs", "aiobotocore[boto3]")
"""What pcrstore needs; the last holds boto3 to a botocore that s3fs can live with."""


def python_of(work: Path) -> Path:
    """Return the interpreter of the peers' environment, made if need be.

    Raises:
        SystemExit: pip failed; it has said why.
    """
    folder = work / "peers-environment"
    python = folder / "bin" / "python"
    rest = [*PEERS, *(f"{name}=={version(name)}" for name in _SAME), *_MORE]
    done = folder / "done"
    wanted = "\n".join([TORCH, *rest])
    if done.exists() and done.read_text() == wanted:
        return python
    print(f"making an environment for the peers in {folder}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if not _pip(python, f"torch=={TORCH}"):
        raise SystemExit(f"pip could not install torch {TORCH}")
    if not _pip(python, *rest):
        raise SystemExit(f"pip could not install {' '.join(rest)}")
    done.write_text(wanted)
    return python


def _pip(python: Path, *names: str) -> bool:
    command = [str(python), "-m", "pip", "install", "-q", *names]
    return subprocess.run(command, check=False, stdout=sys.stderr).returncode == 0


def environment(work: Path) -> dict[str, str]:
    """Return the variables that a driver runs with: nothing of the user's cloud, all of it here."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "S3_"))}
    return {
        **inherited,
        "PYTHONPATH": str(ROOT),
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(work / "no-such-file"),
        "AWS_SHARED_CREDENTIALS_FILE": str(work / "no-such-file"),
        "LITDATA_DISABLE_VERSION_CHECK": "1",
        "OMP_NUM_THREADS": "1",
        # LitData empties these when it optimises; by default they are the temporary directory's
        # folders `data` and `chunks`, whoever they belong to.
        "DATA_OPTIMIZER_CACHE_FOLDER": str(work / "litdata" / "chunks"),
        "DATA_OPTIMIZER_DATA_CACHE_FOLDER": str(work / "litdata" / "data"),
    }
