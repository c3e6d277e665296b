"""Every failure of the libraries beneath becomes the most telling error of ours."""

import errno
import importlib
import socket

import pytest

from pcrstore.errors import (
    AccessDeniedError,
    NotFoundError,
    OptionError,
    StoreError,
    TransientStoreError,
)
from pcrstore.storage.errors import Translator
from pcrstore.storage.open import open_store
from pcrstore.storage.retry import RetryPolicy

TRANSLATOR = Translator("s3://user:pw@bkt/ds?query", (), RetryPolicy())


def translate(cause):
    made = TRANSLATOR.error("read", "a/b", cause)
    assert "s3://bkt/ds/a/b" in str(made)
    assert "\n" not in str(made)
    assert made.__cause__ is not None
    return type(made) if not isinstance(made, TransientStoreError) else TransientStoreError


def client_error(status, code):
    botocore = pytest.importorskip("botocore.exceptions")
    meta = {"HTTPStatusCode": status, "HTTPHeaders": {}}
    return botocore.ClientError(
        {"Error": {"Code": code, "Message": "m"}, "ResponseMetadata": meta}, "GetObject"
    )


S3_ROWS = [
    (400, "RequestTimeout", TransientStoreError),
    (400, "ExpiredToken", AccessDeniedError),
    (400, "InvalidArgument", StoreError),
    (301, "PermanentRedirect", StoreError),
    (401, "Unauthorized", AccessDeniedError),
    (403, "AccessDenied", AccessDeniedError),
    (403, "InvalidAccessKeyId", AccessDeniedError),
    (403, "SignatureDoesNotMatch", AccessDeniedError),
    (404, "NoSuchBucket", NotFoundError),
    (404, "NoSuchKey", NotFoundError),
    (408, "X", TransientStoreError),
    (409, "OperationAborted", TransientStoreError),
    (409, "ConditionalRequestConflict", TransientStoreError),
    (416, "InvalidRange", StoreError),
    (429, "X", TransientStoreError),
    (500, "InternalError", TransientStoreError),
    (501, "NotImplemented", StoreError),
    (503, "SlowDown", TransientStoreError),
]


@pytest.mark.parametrize(("status", "code", "expected"), S3_ROWS)
def test_s3_errors_are_mapped_by_status_and_code(status, code, expected):
    assert translate(client_error(status, code)) is expected


@pytest.mark.parametrize(("status", "code", "expected"), S3_ROWS)
def test_s3fs_errors_are_mapped_by_what_they_were(status, code, expected):
    errors = pytest.importorskip("s3fs.errors")
    assert translate(errors.translate_boto_error(client_error(status, code))) is expected


BOTOCORE = {
    "NoCredentialsError": ({}, AccessDeniedError),
    "PartialCredentialsError": ({"provider": "env", "cred_var": "x"}, AccessDeniedError),
    "ProfileNotFound": ({"profile": "p"}, AccessDeniedError),
    "EndpointConnectionError": ({"endpoint_url": "http://h"}, TransientStoreError),
    "ConnectTimeoutError": ({"endpoint_url": "http://h"}, TransientStoreError),
    "ReadTimeoutError": ({"endpoint_url": "http://h"}, TransientStoreError),
    "ConnectionClosedError": ({"endpoint_url": "http://h"}, TransientStoreError),
    "ProxyConnectionError": ({"proxy_url": "http://h"}, TransientStoreError),
    "HTTPClientError": ({"error": "x"}, TransientStoreError),
    "ResponseStreamingError": ({"error": "x"}, TransientStoreError),
    "IncompleteReadError": ({"actual_bytes": 1, "expected_bytes": 2}, TransientStoreError),
    "InvalidRegionError": ({"region_name": "r"}, StoreError),
    "ParamValidationError": ({"report": "r"}, StoreError),
}


@pytest.mark.parametrize("name", BOTOCORE)
def test_botocore_errors_are_mapped(name):
    module = pytest.importorskip("botocore.exceptions")
    fields, expected = BOTOCORE[name]
    assert translate(getattr(module, name)(**fields)) is expected


OBSTORE = {
    "BaseError": StoreError,
    "GenericError": StoreError,
    "NotFoundError": NotFoundError,
    "InvalidPathError": StoreError,
    "JoinError": TransientStoreError,
    "NotSupportedError": StoreError,
    "AlreadyExistsError": StoreError,
    "PreconditionError": StoreError,
    "NotModifiedError": StoreError,
    "PermissionDeniedError": AccessDeniedError,
    "UnauthenticatedError": AccessDeniedError,
    "UnknownConfigurationKeyError": StoreError,
}


def test_every_error_of_obstore_is_in_the_table():
    module = pytest.importorskip("obstore.exceptions")
    public = {name for name in dir(module) if isinstance(getattr(module, name), type)}
    assert public == set(OBSTORE)


@pytest.mark.parametrize("name", OBSTORE)
def test_obstore_errors_are_mapped(name):
    module = pytest.importorskip("obstore.exceptions")
    assert translate(getattr(module, name)("a message\n\nDebug source: x")) is OBSTORE[name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("non-2xx status code: 503 Service Unavailable: <x>", TransientStoreError),
        ("non-2xx status code: 429 Too Many Requests: <x>", TransientStoreError),
        ("non-2xx status code: 403 Forbidden: <x>", AccessDeniedError),
        ("non-2xx status code: 416 Range Not Satisfiable: <x>", StoreError),
        ("HTTP error: error sending request\n\nkind: Connect,", TransientStoreError),
        ("HTTP error: error sending request\n\nkind: Timeout,", TransientStoreError),
        ("HTTP error: request or response body error", TransientStoreError),
        ("Requested 0..10, got 0..4\n\nUnexpectedRange", TransientStoreError),
        ("Received non-partial response\n\nsource: NotPartial", StoreError),
        ("<Code>NoSuchBucket</Code>", NotFoundError),
        ("Error performing PUT http://169.254.169.254/latest/api/token", AccessDeniedError),
    ],
)
def test_obstore_messages_are_read(text, expected):
    module = pytest.importorskip("obstore.exceptions")
    assert translate(module.GenericError(text)) is expected


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (FileNotFoundError("x"), NotFoundError),
        (NotADirectoryError("x"), NotFoundError),
        (PermissionError("x"), AccessDeniedError),
        (OSError(errno.EROFS, "Read-only file system"), AccessDeniedError),
        (OSError(errno.ENOSPC, "No space left"), StoreError),
        (IsADirectoryError("x"), StoreError),
        (ConnectionResetError("x"), TransientStoreError),
        (ConnectionRefusedError("x"), TransientStoreError),
        (BrokenPipeError("x"), TransientStoreError),
        (TimeoutError(), TransientStoreError),
        (socket.gaierror("x"), TransientStoreError),
        (ValueError("x"), StoreError),
        (RuntimeError(), StoreError),
    ],
    ids=repr,
)
def test_builtin_errors_are_mapped(cause, expected):
    assert translate(cause) is expected


@pytest.mark.parametrize(
    ("module", "name", "fields", "expected"),
    [
        ("fsspec.exceptions", "FSTimeoutError", (), TransientStoreError),
        ("aiohttp", "ClientPayloadError", ("x",), TransientStoreError),
        ("aiohttp", "ServerDisconnectedError", (), TransientStoreError),
        ("aiohttp", "ClientOSError", (), TransientStoreError),
        ("aiohttp", "SocketTimeoutError", (), TransientStoreError),
        ("gcsfs.retry", "HttpError", ({"code": 503, "message": "x"},), TransientStoreError),
        ("gcsfs.retry", "HttpError", ({"code": 401, "message": "x"},), AccessDeniedError),
        ("gcsfs.retry", "HttpError", ({"code": 400, "message": "x"},), StoreError),
        ("gcsfs.retry", "ChecksumError", (), TransientStoreError),
    ],
)
def test_other_libraries_are_mapped(module, name, fields, expected):
    module = pytest.importorskip(module)
    assert translate(getattr(module, name)(*fields)) is expected


@pytest.mark.parametrize("status", [403, 404, 408, 429, 500])
def test_web_answers_are_mapped_by_status(status):
    aiohttp = pytest.importorskip("aiohttp")
    expected = {403: AccessDeniedError, 404: NotFoundError}.get(status, TransientStoreError)
    yarl = pytest.importorskip("yarl")
    request = aiohttp.RequestInfo(yarl.URL("https://h/a?sig=5"), "GET", {}, yarl.URL("https://h"))
    cause = aiohttp.ClientResponseError(request, (), status=status)
    assert translate(cause) is expected


def test_errors_of_ours_pass_through():
    error = NotFoundError("said before")
    assert TRANSLATOR.error("read", "a", error) is error


@pytest.mark.parametrize("module", ["errors", "protocol", "retry"])
def test_no_driver_is_imported_to_tell_errors_apart(module):
    name = f"pcrstore.storage.{module}"
    source = importlib.util.find_spec(name).loader.get_source(name)
    for driver in ("import botocore", "import aiohttp", "import obstore", "import s3fs"):
        assert driver not in source


def test_an_option_that_the_library_does_not_know_is_a_wrong_call():
    pytest.importorskip("s3fs")
    store = open_store("s3://bucket/ds", {"nonsense": 3}, engine="fsspec")
    with pytest.raises(OptionError, match="nonsense"):
        store.list("")


def test_errors_that_another_try_may_mend_are_counted():
    translator = Translator("s3://bkt/ds", (), RetryPolicy())
    for n, cause in enumerate([TimeoutError("x"), ConnectionResetError("x")], 1):
        made = translator.error("read", "a", cause)
        assert translator.n_retryable == n
        # One that was made before is another failed request, whoever made it.
        assert translator.error("read", "a", made) is made
        translator.n_retryable -= 1
    for cause in (FileNotFoundError("x"), PermissionError("x"), ValueError("x")):
        translator.error("read", "a", cause)
    assert translator.n_retryable == 2
