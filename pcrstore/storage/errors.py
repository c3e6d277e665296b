"""Errors of the libraries beneath, translated into ours, without credentials.

Libraries are told apart by status code and class name, so that none has to be imported.

    botocore, aiohttp, gcsfs, azure ... -> status 404, 401, 403, 408, 429, 5xx
    obstore, sockets, file system       -> class name, errno
"""

import errno
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pcrstore.errors import AccessDeniedError, NotFoundError, OptionError, StoreError
from pcrstore.storage.redact import redact, redact_url
from pcrstore.storage.retry import RetryableError, RetryPolicy

__all__ = ["Translator", "says_exists", "says_no_bucket", "status_of"]

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
TRANSIENT_CODES = frozenset(
    {"RequestTimeout", "SlowDown", "InternalError", "ServiceUnavailable", "OperationAborted"}
    | {"ConditionalRequestConflict", "IncompleteBody"}
)
"""S3 error codes worth another try with any status (RequestTimeout is a 400).

https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, 2026-11."""
EXISTS_CODES = frozenset({"BlobAlreadyExists"})
"""Azure's answer (a 409) to a create of what exists.

https://learn.microsoft.com/rest/api/storageservices/blob-service-error-codes, 2026-11."""
DENIED_CODES = frozenset(
    {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "InvalidAccessKeyId"}
)
NO_CREDENTIALS = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"}
    | {"TokenRetrievalError", "SSOError", "UnauthorizedSSOTokenError", "SSOTokenLoadError"}
    | {"DefaultCredentialsError", "GoogleAuthError", "ClientAuthenticationError"}
    | {"CredentialUnavailableError", "UnauthenticatedError"}
)
UNREACHABLE = frozenset(
    {"EndpointConnectionError", "ClientConnectorError", "ProxyConnectionError", "gaierror"}
    | {"ConnectionRefusedError", "ConnectTimeoutError", "ClientConnectorDNSError"}
    | {"ServiceRequestError"}
)
BROKEN = frozenset(
    {"ReadTimeoutError", "ConnectionClosedError", "ResponseStreamingError", "IncompleteReadError"}
    | {"HTTPClientError", "ClientPayloadError", "ServerDisconnectedError", "ClientOSError"}
    | {"ServerTimeoutError", "SocketTimeoutError", "ConnectionTimeoutError", "FSTimeoutError"}
    | {"IncompleteRead", "ConnectionError", "TimeoutError", "ClientConnectionError", "JoinError"}
    | {"ChunkedEncodingError", "ProtocolError", "ChecksumError", "FlexibleChecksumError"}
    | {"ServiceResponseError", "TransportError"}
)
DENIED = frozenset({"PermissionError", "PermissionDeniedError"})
MISSING = frozenset({"FileNotFoundError", "NotFoundError", "NotADirectoryError"})
DENIED_ERRNO = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

NO_BUCKET_TEXT = ("nosuchbucket", "specified bucket does not exist", "containernotfound")
UNREACHABLE_TEXT = ("connection refused", "dns error", "kind: connect,", "name resolution")
BROKEN_TEXT = (
    *("timed out", "timeout", "connection reset", "connection closed", "broken pipe"),
    *("error sending request", "response body error", "decoding response", "incomplete"),
)

CODE_IN_TEXT = re.compile(r"<Code>(\w+)</Code>")
OBSTORE_STATUS = re.compile(r"(?:status(?: code)?:?|error) \(?(\d{3})\b", re.IGNORECASE)


class Translator:
    """Translator of foreign errors into `StoreError`s, for one store."""

    def __init__(self, url: str, secrets: Sequence[str], policy: RetryPolicy) -> None:
        self.url = redact_url(url)
        self._secrets = tuple(secrets)
        self._policy = policy
        self.n_retryable = 0
        """Errors so far that are worth another try. Threads may lose a count to each other."""

    def redact(self, text: str) -> str:
        """Return the text with secrets and the queries of URLs left out."""
        return redact(text, self._secrets)

    def error(self, verb: str, name: str, cause: Exception) -> StoreError:
        """Return our error for what a library raised, chained to it.

        Args:
            verb: The operation, for the message: "read", "list".
            name: Object or folder, relative to the root.
            cause: The library's error. A `StoreError` comes back as it is.

        Raises:
            OptionError: A storage option that the library does not know; it says so as a
                `TypeError` when its client is first used.
        """
        made = cause if isinstance(cause, StoreError) else self._made(verb, name, cause)
        self.n_retryable += isinstance(made, RetryableError)
        return made

    def _made(self, verb: str, name: str, cause: Exception) -> StoreError:
        if isinstance(cause, TypeError) and "unexpected keyword argument" in str(cause):
            raise OptionError(f"{self.url}: a storage option is unknown: {cause}") from cause
        where = f"{self.url.rstrip('/')}/{name}" if name else self.url
        chain = list(_causes(cause))
        made = self._classify(f"cannot {verb} {where}", chain)
        shown = [self.redact(str(e)) for e in chain]
        # A library's message with a secret in it would be printed by the traceback.
        clean = shown == [str(e) for e in chain]
        made.__cause__ = cause if clean else OSError(f"{type(cause).__name__}: {shown[0]}")
        return made

    def conflict(self, name: str) -> RetryableError:
        """Return the error for a 409: another create is under way, and may yet fail."""
        return RetryableError(f"cannot create {self.url.rstrip('/')}/{name}: 409 Conflict")

    def short(self, name: str, problem: StoreError) -> RetryableError:
        """Return the error for a body that is too short: tried again a few times."""
        made = RetryableError(f"cannot read {self.url.rstrip('/')}/{name}: {problem}")
        made.max_tries = self._policy.max_short
        return made

    def _classify(self, what: str, chain: Sequence[BaseException]) -> StoreError:
        seen = _Evidence.of(chain)
        reason = self.redact(_first_line(chain))
        if seen.says(*NO_BUCKET_TEXT):
            return NotFoundError(f"{what}: no such bucket")
        if seen.is_a(NO_CREDENTIALS) or seen.says("credentialsnotloaded", "169.254.169.254"):
            return AccessDeniedError(
                f"{what}: no usable credentials ({reason}); give them in storage_options or the "
                "environment, or anon=true for a public bucket"
            )
        return self._of_status(what, seen, reason) or self._of_failure(what, seen, reason)

    def _of_status(self, what: str, seen: "_Evidence", reason: str) -> StoreError | None:
        if seen.status in TRANSIENT_STATUS or seen.code in TRANSIENT_CODES:
            made = RetryableError(f"{what}: {reason}")
            made.retry_after = seen.retry_after
            return made
        if seen.status in {401, 403} or seen.code in DENIED_CODES:
            return AccessDeniedError(f"{what}: access denied ({reason})")
        if seen.status in {404, 410}:
            return NotFoundError(f"{what}: not found")
        if seen.status in {301, 307} or seen.says("incorrectly configured region"):
            hint = "the bucket is in another region; set client_kwargs={'region_name': ...}"
            return StoreError(f"{what}: {hint} ({reason})")
        return None if seen.status is None else StoreError(f"{what}: {reason}")

    def _of_failure(self, what: str, seen: "_Evidence", reason: str) -> StoreError:
        made: StoreError = StoreError(f"{what}: {reason}")
        if seen.is_a(UNREACHABLE) or seen.says(*UNREACHABLE_TEXT):
            made = RetryableError(f"{what}: the store cannot be reached ({reason})")
            made.patience = self._policy.unreachable
        elif seen.is_a(DENIED) or seen.errnos & DENIED_ERRNO:
            made = AccessDeniedError(f"{what}: access denied ({reason})")
        elif seen.is_a(MISSING):
            made = NotFoundError(f"{what}: not found")
        elif seen.says("unexpectedrange"):
            made = RetryableError(f"{what}: the reply holds another range ({reason})")
            made.max_tries = self._policy.max_short
        elif seen.says("notpartial"):
            made = StoreError(f"{what}: the server ignores Range requests ({reason})")
        elif seen.is_a(BROKEN) or seen.says(*BROKEN_TEXT):
            made = RetryableError(f"{what}: {reason}")
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Evidence:
    """Facts found in a chain of foreign errors."""

    names: frozenset[str]
    """Class names, with those of the base classes."""
    errnos: frozenset[int | None]
    text: str
    """All messages, in lower case."""
    status: int | None
    """HTTP status."""
    code: str | None
    """The service's own error code."""
    retry_after: float
    """In seconds."""

    @classmethod
    def of(cls, chain: Sequence[BaseException]) -> "_Evidence":
        status, code, retry_after = _status(chain)
        return cls(
            names=frozenset(kind.__name__ for e in chain for kind in type(e).__mro__),
            errnos=frozenset(e.errno for e in chain if isinstance(e, OSError)),
            text=" ".join(str(e) for e in chain).lower(),
            status=status,
            code=code,
            retry_after=retry_after,
        )

    def is_a(self, names: frozenset[str]) -> bool:
        return bool(self.names & names)

    def says(self, *signs: str) -> bool:
        return any(sign in self.text for sign in signs)


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that a library's error stands for, if it tells."""
    return _status(list(_causes(error)))[0]


def says_exists(error: BaseException) -> bool:
    """Tell obstore's "already exists" from "a create is under way, and may yet fail".

    obstore raises one type for both. S3 and GCS answer 412 to a create of what exists, Azure 409
    with a code of its own. Any other 409 is a conflict: S3's ConditionalRequestConflict, Azure's
    ContainerBeingDeleted.
    """
    codes = {code for e in _causes(error) for code in CODE_IN_TEXT.findall(str(e))}
    return status_of(error) != 409 or bool(codes & EXISTS_CODES)


def says_no_bucket(error: BaseException) -> bool:
    """Say whether a "not found" means the bucket and not an object in it."""
    return _Evidence.of(list(_causes(error))).says(*NO_BUCKET_TEXT)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from, outermost first."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def _status(chain: Sequence[BaseException]) -> tuple[int | None, str | None, float]:
    """Return HTTP status, the service's error code and seconds of Retry-After, where known."""
    for e in chain:
        response = getattr(e, "response", None)
        if isinstance(response, Mapping):  # botocore
            meta = response.get("ResponseMetadata", {})
            code = str(response.get("Error", {}).get("Code", ""))
            status = meta.get("HTTPStatusCode") or (int(code) if code.isdigit() else None)
            return status, code, _seconds(meta.get("HTTPHeaders", {}).get("retry-after"))
        # aiohttp, azure, gcsfs; aiohttp's parser errors have a code too, always 400.
        for field in ("status", "status_code", "code"):
            if field == "code" and type(e).__name__ != "HttpError":
                continue
            status = getattr(e, field, None)
            if isinstance(status, str) and status.isdigit():
                status = int(status)
            if isinstance(status, int) and 100 <= status < 600:
                headers = getattr(e, "headers", None) or {}
                return status, None, _seconds(dict(headers).get("Retry-After"))
        if type(e).__module__.startswith("obstore"):
            found = OBSTORE_STATUS.search(str(e))
            if found:
                return int(found.group(1)), None, 0.0
    return None, None, 0.0


def _seconds(value: object) -> float:
    text = str(value or "")
    return min(float(text), 60.0) if text.isdigit() else 0.0


def _first_line(chain: Sequence[BaseException]) -> str:
    for e in chain:
        line = str(e).strip().partition("\n")[0]
        if line:
            return f"{type(e).__name__}: {line[:300]}"
    return type(chain[0]).__name__
