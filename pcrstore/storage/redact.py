"""Credentials kept out of everything that is shown: URLs, messages, chained errors.

A store collects what must not be shown from its URL and options once, and every message of a
library beneath passes through `redact` before anybody sees it.
"""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

__all__ = ["redact", "redact_url", "secrets_in"]

_SECRET_OPTION = re.compile(
    r"key|secret|token|password|sas|credential|signature|connection", re.IGNORECASE
)
_HARMLESS_OPTION = re.compile(r"endpoint|region|provider$", re.IGNORECASE)
_URL_IN_TEXT = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_LEAST_SECRET = 4
"""Characters of the shortest secret that is replaced: shorter ones are in every other word."""


def redact(text: str, secrets: Sequence[str]) -> str:
    """Return the text without the secrets, and without the credentials in its URLs.

    >>> redact("GET s3://bucket/a?sig=7 failed for key hunter2", ["hunter2"])
    'GET s3://bucket/a failed for key ***'
    """
    for secret in secrets:
        text = text.replace(secret, "***")
    return _URL_IN_TEXT.sub(lambda found: redact_url(found.group()), text)


def redact_url(url: str) -> str:
    """Return the URL without user name, password, query and fragment.

    >>> redact_url("https://me:pw@host/a?X-Amz-Signature=5")
    'https://host/a'
    >>> redact_url("simplecache::s3://bucket/a")
    'simplecache::s3://bucket/a'
    """
    if "://" not in url:
        return url
    chain, _, last = url.rpartition("::")
    try:
        parts = urlsplit(last)
    except ValueError:  # an unbalanced [ in the host
        return url.partition("://")[0] + "://..."
    host = parts.netloc.rpartition("@")[2]
    bare = f"{parts.scheme}://{host}{parts.path}"
    return f"{'::'.join(redact_url(c) for c in chain.split('::'))}::{bare}" if chain else bare


def secrets_in(url: str, options: Mapping[str, object]) -> tuple[str, ...]:
    """Return the values that must never be shown, longest first.

    Those of options whose name tells of a secret, and the password and query of the URL.
    """
    found: set[str] = set()
    _collect(options, secret=False, into=found)
    if "://" in url:
        rest = url.rpartition("::")[2].partition("://")[2]
        authority, _, _ = rest.partition("/")
        user_info, at, _ = authority.rpartition("@")
        if at:
            found.update({user_info, *user_info.split(":", 1)[1:]})
        _, question, query = rest.partition("?")
        if question:
            found.update({query, *(pair.partition("=")[2] for pair in query.split("&"))})
    return tuple(sorted((s for s in found if len(s) >= _LEAST_SECRET), key=len, reverse=True))


def _collect(value: object, *, secret: bool, into: set[str]) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            named = bool(_SECRET_OPTION.search(str(name))) and not _HARMLESS_OPTION.search(
                str(name)
            )
            _collect(inner, secret=secret or named, into=into)
    elif isinstance(value, str) and secret:
        into.add(value)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for inner in value:
            _collect(inner, secret=secret, into=into)
