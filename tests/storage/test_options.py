"""Options of s3fs, gcsfs and adlfs become obstore's, or the reason why they cannot."""

import json

import pytest

from pcrstore.errors import OptionError
from pcrstore.storage.options import NotTranslatableError, translate_options

REGION = {"AWS_REGION": "eu-west-1"}
KEYS = {"key": "k", "secret": "s"}
HERE = "http://127.0.0.1:9000"


def config(url, options, environment=REGION):
    return dict(translate_options(url, options, environment).config)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (KEYS, {"access_key_id": "k", "secret_access_key": "s"}),
        ({"username": "k", "password": "s"}, {"access_key_id": "k", "secret_access_key": "s"}),
        ({**KEYS, "token": "t"}, {"session_token": "t"}),
        ({"anon": True}, {"skip_signature": True}),
        ({"requester_pays": True}, {"request_payer": True}),
        ({"client_kwargs": {"region_name": "us-west-2"}}, {"region": "us-west-2"}),
        ({"endpoint_url": HERE}, {"endpoint": HERE, "virtual_hosted_style_request": False}),
        ({"client_kwargs": {"endpoint_url": HERE}}, {"endpoint": HERE}),
        ({"config_kwargs": {"retries": {"max_attempts": 3}}}, {"region": "eu-west-1"}),
        (
            {"config_kwargs": {"s3": {"addressing_style": "path"}}},
            {"virtual_hosted_style_request": False},
        ),
        (
            {"endpoint_url": HERE, "config_kwargs": {"s3": {"addressing_style": "virtual"}}},
            {"endpoint": "http://bkt.127.0.0.1:9000", "virtual_hosted_style_request": True},
        ),
        ({"use_ssl": True, "default_block_size": 5, "anon": False, "token": None}, {}),
    ],
    ids=repr,
)
def test_s3_options_are_translated(options, expected):
    got = config("s3://bkt/ds", options)
    assert {name: got.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "options",
    [
        {"use_ssl": False},
        {"nonsense": 1},
        {"version_aware": True},
        {"session": object()},
        {"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms"}},
        {"client_kwargs": {"verify": "/ca.pem"}},
        {"client_kwargs": "text"},
        {"config_kwargs": {"proxies": {}}},
        {"config_kwargs": {"s3": {"use_accelerate_endpoint": True}}},
        {"key": "k"},
        {"key": 5, "secret": "s"},
    ],
    ids=repr,
)
def test_what_obstore_cannot_do_is_refused(options):
    with pytest.raises(NotTranslatableError):
        translate_options("s3://bkt/ds", options, REGION)


@pytest.mark.parametrize(
    "url", ["simplecache::s3://b/a", "s3://b/a?versionId=1", "ftp://b/a", "s3://k:s@b/a"]
)
def test_urls_that_are_not_plain_buckets_are_refused(url):
    with pytest.raises(NotTranslatableError):
        translate_options(url, KEYS, REGION)


@pytest.mark.parametrize("url", ["s3://", "s3:///ds", "gs://", "az://"])
def test_a_url_without_a_bucket_is_a_wrong_call(url):
    with pytest.raises(OptionError, match="followed by a bucket"):
        translate_options(url, {}, REGION)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "localhost", "ftp://x"])
def test_an_endpoint_needs_a_scheme(endpoint):
    with pytest.raises(OptionError, match="http:// or https://"):
        translate_options("s3://b/a", {**KEYS, "endpoint_url": endpoint}, REGION)


@pytest.mark.parametrize(
    ("url", "bucket", "root"),
    [
        ("s3://b", "b", ""),
        ("s3://b/", "b", ""),
        ("s3://b/x/y/", "b", "x/y"),
        ("s3a://b/x", "b", "x"),
    ],
)
def test_urls_are_split(url, bucket, root):
    settings = translate_options(url, KEYS, REGION)
    assert (settings.bucket, settings.root) == (bucket, root)


def test_plain_http_is_allowed_only_by_name():
    assert translate_options("s3://b", {"endpoint_url": HERE}, {}).allow_http
    assert not translate_options("s3://b", {"endpoint_url": "https://h"}, {}).allow_http
    assert not translate_options("s3://b", KEYS, REGION).allow_http
    assert not translate_options("s3://b", KEYS, REGION).allow_invalid_certificates
    insecure = {"client_kwargs": {"verify": False}}
    assert translate_options("s3://b", insecure, REGION).allow_invalid_certificates


def test_the_region_is_found_or_asked_for():
    assert config("s3://b", {"endpoint_url": HERE}, {})["region"] == "us-east-1"
    assert config("s3://b", {}, {"AWS_DEFAULT_REGION": "r"})["region"] == "r"
    with pytest.raises(NotTranslatableError, match="region"):
        translate_options("s3://b", KEYS, {})


def test_the_environment_names_an_endpoint_unless_the_options_do():
    environment = {**REGION, "AWS_ENDPOINT_URL": HERE}
    assert config("s3://b", {}, environment)["endpoint"] == HERE
    assert config("s3://b", {"endpoint_url": "https://h"}, environment)["endpoint"] == "https://h"
    assert translate_options("s3://b", {}, environment).allow_http


@pytest.mark.parametrize(
    ("options", "environment", "boto"),
    [
        ({}, {}, True),
        ({}, {"AWS_ACCESS_KEY_ID": "k"}, False),
        ({}, {"AWS_WEB_IDENTITY_TOKEN_FILE": "f"}, False),
        (KEYS, {}, False),
        ({"anon": True}, {}, False),
        ({"profile": "p"}, {"AWS_ACCESS_KEY_ID": "k"}, True),
        ({"profile": "p", **KEYS}, {}, False),
    ],
    ids=repr,
)
def test_boto_is_asked_for_credentials_only_when_nothing_else_has_them(options, environment, boto):
    assert translate_options("s3://b", options, {**REGION, **environment}).boto is boto


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"token": "anon"}, {"skip_signature": True}),
        ({"token": "google_default", "project": "p"}, {}),
        ({"token": "/key.json"}, {"application_credentials": "/key.json"}),
        (
            {"token": {"type": "service_account"}},
            {"service_account_key": json.dumps({"type": "service_account"})},
        ),
    ],
    ids=repr,
)
def test_gcs_options_are_translated(options, expected):
    assert config("gs://b/x", options) == expected


@pytest.mark.parametrize(
    "options",
    [{"token": "cloud"}, {"token": {"type": "other"}}, {"endpoint_url": HERE}],
    ids=repr,
)
def test_gcs_options_that_obstore_lacks_are_refused(options):
    with pytest.raises(NotTranslatableError):
        translate_options("gs://b/x", options, {})


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("az://c/x", {"account_name": "a", "account_key": "k"}, {"account_name": "a"}),
        ("abfs://c@acc.dfs.core.windows.net/x", {}, {"account_name": "acc"}),
        ("az://c/x", {"account_name": "a", "sas_token": "?sv=1"}, {"sas_key": "sv=1"}),
        ("az://c/x", {"account_name": "a", "anon": True}, {"skip_signature": True}),
        (
            "az://c/x",
            {"connection_string": f"AccountName=a;AccountKey=k==;BlobEndpoint={HERE};"},
            {"account_name": "a", "account_key": "k==", "endpoint": HERE},
        ),
    ],
)
def test_azure_options_are_translated(url, options, expected):
    settings = translate_options(url, options, {})
    assert settings.bucket == "c"
    got = {name: settings.config.get(name) for name in expected}
    assert got == expected


def test_settings_show_no_credentials():
    assert "s3cr3t" not in repr(
        translate_options("s3://b", {"key": "k", "secret": "s3cr3t"}, REGION)
    )
