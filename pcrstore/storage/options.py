"""Options of s3fs, gcsfs and adlfs, translated for obstore.

Pure. Each option is translated, or is known to change nothing, or is the reason why obstore cannot
be used: none is dropped silently.

    {"key": ..., "client_kwargs": {"endpoint_url": ...}} -> {"access_key_id": ..., "endpoint": ...}
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pcrstore.errors import OptionError

__all__ = ["NotTranslatableError", "ObjectStoreSettings", "translate_options"]

TUNING = frozenset(
    {"default_block_size", "default_fill_cache", "default_cache_type", "max_concurrency"}
    | {"cache_regions", "use_listings_cache", "listings_expiry_time", "max_paths"}
    | {"skip_instance_cache", "fixed_upload_size", "block_size", "cache_timeout"}
)
"""Options about fsspec's buffers and caches, which obstore does not have."""
DEFAULTS: Mapping[str, object] = {
    "use_ssl": True,
    "version_aware": False,
    "asynchronous": False,
    "consistency": "none",
    "requester_pays": False,
    "anon": False,
}
"""Options that may be given with these values, which are obstore's behaviour."""
BOTO_TUNING = frozenset({"retries", "max_pool_connections", "connect_timeout", "read_timeout"})
"""Keys of config_kwargs that pcrstore's own RetryPolicy replaces."""
S3_NAMES = {
    "key": "access_key_id",
    "username": "access_key_id",
    "aws_access_key_id": "access_key_id",
    "secret": "secret_access_key",
    "password": "secret_access_key",
    "aws_secret_access_key": "secret_access_key",
    "token": "session_token",
    "aws_session_token": "session_token",
    "endpoint_url": "endpoint",
    "region_name": "region",
    "region": "region",
}
S3_FLAGS = {"anon": "skip_signature", "requester_pays": "request_payer"}
AZURE_NAMES = {
    "account_name": "account_name",
    "account_key": "account_key",
    "sas_token": "sas_key",
    "tenant_id": "tenant_id",
    "client_id": "client_id",
    "client_secret": "client_secret",
    "endpoint": "endpoint",
}
AZURE_CONNECTION = {
    "AccountName": "account_name",
    "AccountKey": "account_key",
    "SharedAccessSignature": "sas_key",
    "BlobEndpoint": "endpoint",
}
ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
CREDENTIAL_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)


class NotTranslatableError(OptionError):
    """obstore cannot be used with these options; the message says which and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectStoreSettings:
    """Arguments of an obstore store."""

    kind: str
    """`s3`, `gs` or `az`."""
    bucket: str
    root: str
    """Folder in the bucket, without slashes around it; `""` is the bucket itself."""
    config: Mapping[str, str | bool] = field(repr=False)
    """obstore's configuration keys."""
    allow_http: bool = False
    """An `http://` endpoint was asked for by name."""
    allow_invalid_certificates: bool = False
    """`client_kwargs={"verify": False}`."""
    boto: bool = False
    """No credentials here nor in the environment: boto3 looks for them (~/.aws, instance role)."""
    profile: str | None = None
    """Section of ~/.aws to take them from."""


def translate_options(
    url: str, options: Mapping[str, object], environment: Mapping[str, str]
) -> ObjectStoreSettings:
    """Return obstore's settings for a URL and its fsspec-style options.

    Args:
        url: `s3://`, `s3a://`, `gs://`, `gcs://`, `az://`, `abfs://` or `abfss://`.
        options: As for s3fs, gcsfs or adlfs.
        environment: AWS_* variables, which the libraries on both sides read.

    Raises:
        NotTranslatableError: An option that obstore has no counterpart for.
        OptionError: No bucket, or an endpoint that no library could use.
    """
    protocol, separator, rest = url.partition("://")
    if not separator or "::" in url or "?" in rest or "#" in rest:
        raise NotTranslatableError("obstore opens plain bucket URLs only")
    bucket, _, root = rest.partition("/")
    root = root.strip("/")
    if not bucket:
        raise OptionError(f"{protocol}:// must be followed by a bucket, got {url!r}")
    given = {name: value for name, value in options.items() if value is not None}
    if protocol in {"s3", "s3a"}:
        return _s3(bucket, root, given, environment)
    if protocol in {"gs", "gcs"}:
        return _gcs(bucket, root, given)
    if protocol in {"az", "abfs", "abfss"}:
        return _azure(bucket, root, given)
    raise NotTranslatableError(f"obstore does not know {protocol}://")


def _s3(
    bucket: str, root: str, options: Mapping[str, object], environment: Mapping[str, str]
) -> ObjectStoreSettings:
    if "@" in bucket or ":" in bucket:
        raise NotTranslatableError("access points and user names in the URL are s3fs's")
    config: dict[str, str | bool] = {}
    client = _mapping("client_kwargs", options)
    verify = client.pop("verify", True)
    if not isinstance(verify, bool):
        raise NotTranslatableError("obstore has no counterpart for client_kwargs['verify']=path")
    flat = {k: v for k, v in options.items() if k not in {"client_kwargs", "config_kwargs"}}
    profile = flat.pop("profile", None)
    for name, value in (*client.items(), *flat.items()):
        if name in S3_NAMES and isinstance(value, str):
            config[S3_NAMES[name]] = value
        elif name in S3_FLAGS and value is True:
            config[S3_FLAGS[name]] = True
        elif not _harmless(name, value):
            raise NotTranslatableError(f"obstore has no counterpart for the option {name}")
    for variable in ENDPOINT_VARIABLES:
        if "endpoint" not in config and environment.get(variable):
            config["endpoint"] = environment[variable]
    endpoint = _checked_endpoint(config)
    _set_region(config, environment, profile=profile)
    _set_style(config, bucket, _addressing_style(_mapping("config_kwargs", options)))
    explicit = "access_key_id" in config or "skip_signature" in config
    if "access_key_id" in config and "secret_access_key" not in config:
        raise NotTranslatableError("key is given without secret")
    inherited = any(environment.get(variable) for variable in CREDENTIAL_VARIABLES)
    return ObjectStoreSettings(
        kind="s3",
        bucket=bucket,
        root=root,
        config=config,
        allow_http=endpoint.startswith("http://"),
        allow_invalid_certificates=not verify,
        boto=not explicit and (profile is not None or not inherited),
        profile=str(profile) if profile is not None and not explicit else None,
    )


def _checked_endpoint(config: Mapping[str, str | bool]) -> str:
    """Return the endpoint, or nothing; without a scheme obstore would panic."""
    endpoint = str(config.get("endpoint", ""))
    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise OptionError(f"endpoint_url must start with http:// or https://, got {endpoint!r}")
    return endpoint


def _set_region(
    config: dict[str, str | bool], environment: Mapping[str, str], *, profile: object
) -> None:
    for variable in REGION_VARIABLES:
        if "region" not in config and environment.get(variable):
            config["region"] = environment[variable]
    if "region" in config:
        return
    if "endpoint" in config:
        config["region"] = "us-east-1"
    elif profile is None:
        # s3fs follows the redirect to the bucket's region; obstore reports an error.
        raise NotTranslatableError("no region is set, and obstore cannot find the bucket's")


def _set_style(config: dict[str, str | bool], bucket: str, style: str) -> None:
    """Choose between https://host/bucket/key and https://bucket.host/key, as botocore does."""
    endpoint = str(config.get("endpoint", ""))
    amazon = not endpoint or ".amazonaws.com" in endpoint
    virtual = style == "virtual" or (style == "auto" and amazon and "." not in bucket)
    config["virtual_hosted_style_request"] = virtual
    if endpoint and virtual:
        # obstore takes the endpoint of this style as the bucket's own host.
        scheme, _, host = endpoint.rstrip("/").partition("://")
        config["endpoint"] = f"{scheme}://{bucket}.{host}"


def _addressing_style(config_kwargs: Mapping[str, object]) -> str:
    style = "auto"
    for name, value in config_kwargs.items():
        if name == "s3" and isinstance(value, Mapping) and set(value) <= {"addressing_style"}:
            style = str(value.get("addressing_style", "auto"))
        elif name == "signature_version" and value in {"s3v4", "v4"}:
            continue
        elif name not in BOTO_TUNING:
            raise NotTranslatableError(f"obstore has no counterpart for config_kwargs[{name!r}]")
    if style not in {"auto", "path", "virtual"}:
        raise NotTranslatableError(f"addressing_style must be auto, path or virtual, got {style!r}")
    return style


def _gcs(bucket: str, root: str, options: Mapping[str, object]) -> ObjectStoreSettings:
    config: dict[str, str | bool] = {}
    for name, value in options.items():
        if name == "token" and value == "anon":
            config["skip_signature"] = True
        elif name == "token" and isinstance(value, Mapping):
            if value.get("type") != "service_account":
                raise NotTranslatableError("only service account tokens can be handed to obstore")
            config["service_account_key"] = json.dumps(dict(value))
        elif name == "token" and isinstance(value, str) and value.endswith(".json"):
            config["application_credentials"] = value
        elif name == "token" and value == "google_default":
            continue
        elif name not in {"project", "access"} and not _harmless(name, value):
            raise NotTranslatableError(f"obstore has no counterpart for the option {name}")
    return ObjectStoreSettings(kind="gs", bucket=bucket, root=root, config=config)


def _azure(bucket: str, root: str, options: Mapping[str, object]) -> ObjectStoreSettings:
    config: dict[str, str | bool] = {}
    container, at, host = bucket.partition("@")
    if at:  # abfss://container@account.dfs.core.windows.net/folder
        found = re.fullmatch(r"([a-z0-9]+)\.(dfs|blob)\.core\.windows\.net", host)
        if not found:
            raise NotTranslatableError(f"{host} is not an Azure storage account")
        config["account_name"] = found.group(1)
    for name, value in options.items():
        if name == "connection_string" and isinstance(value, str):
            config.update(_connection_string(value))
        elif name in AZURE_NAMES and isinstance(value, str):
            config[AZURE_NAMES[name]] = value.removeprefix("?") if name == "sas_token" else value
        elif name == "anon" and value is True:
            config["skip_signature"] = True
        elif not _harmless(name, value):
            raise NotTranslatableError(f"obstore has no counterpart for the option {name}")
    return ObjectStoreSettings(
        kind="az",
        bucket=container,
        root=root,
        config=config,
        allow_http=str(config.get("endpoint", "")).startswith("http://"),
    )


def _connection_string(text: str) -> dict[str, str]:
    config = {}
    for pair in text.strip(";").split(";"):
        name, _, value = pair.partition("=")
        if name in AZURE_CONNECTION:
            config[AZURE_CONNECTION[name]] = value
        elif name not in {"DefaultEndpointsProtocol", "EndpointSuffix"}:
            raise NotTranslatableError(f"connection_string has a part {name!r}")
    return config


def _mapping(name: str, options: Mapping[str, object]) -> dict[str, object]:
    value = options.get(name, {})
    if not isinstance(value, Mapping):
        raise NotTranslatableError(f"{name} must be a mapping, got {type(value).__name__}")
    return {str(k): v for k, v in value.items() if v is not None}


def _harmless(name: str, value: object) -> bool:
    """Say whether the option changes nothing for obstore."""
    return name in TUNING or (name in DEFAULTS and value == DEFAULTS[name])
