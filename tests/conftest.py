"""Fixtures that several test files share."""

import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

import pytest

# Before any library looks: no instance role, no ~/.aws, no real account.
for variable in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[variable]
os.environ.update(
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",  # noqa: S106 (moto checks nothing)
    AWS_EC2_METADATA_DISABLED="true",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
)


def pytest_configure(config):
    """Look for no doctests in modules that cannot be imported here.

    `collect_ignore` would do in a conftest of the package's own folder only.
    """
    needed = {"torch": "torch", "ray": "ray", "zarr_view": "zarr"}
    absent = [name for name, library in needed.items() if find_spec(library) is None]
    ignored = [str(config.rootpath / "pcrstore" / name) for name in absent]
    config.option.ignore = [*(config.option.ignore or ()), *ignored]


def pytest_addoption(parser):
    parser.addoption(
        "--soak-scale",
        type=float,
        default=1.0,
        help="rounds and seconds of the soak tests, as a share of their full length",
    )


@pytest.fixture
def scaled(request):
    """Return a function that shortens a number of rounds by --soak-scale, to one at least."""
    scale = request.config.getoption("--soak-scale")
    return lambda n: max(1, round(n * scale))


@dataclass(frozen=True)
class S3Server:
    """A moto server on the loopback interface, and an empty bucket of this test's own."""

    endpoint: str
    bucket: str

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/ds"

    @property
    def options(self) -> dict[str, object]:
        return {"endpoint_url": self.endpoint}


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    server_module = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_server(_moto: str) -> S3Server:
    boto3 = pytest.importorskip("boto3")
    bucket = f"test-{uuid.uuid4().hex}"
    client = boto3.client("s3", endpoint_url=_moto, region_name="us-east-1")
    client.create_bucket(Bucket=bucket)
    client.close()
    return S3Server(endpoint=_moto, bucket=bucket)


@pytest.fixture
def no_threads_left():
    """Fail when threads of loaders outlive a test by more than a moment."""
    from small_datasets import threads, until  # noqa: PLC0415 - after the environment

    before = set(threads())
    yield
    assert until(lambda: set(threads()) <= before), set(threads()) - before
