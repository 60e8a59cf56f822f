"""Access to an S3 store: refusals, the permissions of a bucket's policy, and the settings of the environment."""

import json
import re
import ssl
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedws.core.errors import UsageError
from fedws.object_store.backends.s3 import S3Store
from fedws.object_store.base import Store, StoreConfig, open_backend
from fedws.security import certificates
from tests.helpers.s3_proxy import ALWAYS, Fault, StoreProxy, free_port, garbage, refuses
from tests.helpers.s3_store import LARGE, PATIENCE, RUN, SMALL, dropped, error_line, got, left, name, put
from tests.helpers.s3_store import own as own
from tests.helpers.s3_store import pauses as pauses
from tests.helpers.s3_store import proxies as proxies
from tests.helpers.s3_store import proxy as proxy
from tests.helpers.s3_store import store as store
from tests.helpers.s3_store import url as url
from tests.helpers.support import REPOSITORY

# --------------------------------------------------------------------------- refusals and permissions


REFUSED: dict[str, tuple[Fault, str]] = {
    "no permission": (refuses(403, "AccessDenied"), "127.0.0.1 rejects {} with these credentials (AccessDenied)"),
    "unknown key": (
        refuses(403, "InvalidAccessKeyId"),
        "127.0.0.1 rejects {} with these credentials (InvalidAccessKeyId)",
    ),
    "wrong secret": (
        refuses(403, "SignatureDoesNotMatch"),
        "127.0.0.1 rejects {} with these credentials (SignatureDoesNotMatch)",
    ),
    "out of date": (refuses(400, "ExpiredToken"), "127.0.0.1 rejects {} with these credentials (ExpiredToken)"),
    "a clock ahead": (
        refuses(403, "RequestTimeTooSkewed", 3600),
        "127.0.0.1 rejects the request: the clock of this machine is 60 minutes ahead of the store's; set the clock",
    ),
    "a clock behind": (
        refuses(403, "RequestTimeTooSkewed", -7200),
        "127.0.0.1 rejects the request: the clock of this machine is 120 minutes behind the store's; set the clock",
    ),
    "no bucket": (
        refuses(404, "NoSuchBucket"),
        "bucket '{bucket}' not found at 127.0.0.1; create it, or put the bucket first: s3://BUCKET/{bucket}/fedws",
    ),
    "another region": (
        refuses(400, "AuthorizationHeaderMalformed"),
        "the bucket is in another region (AuthorizationHeaderMalformed); set AWS_DEFAULT_REGION",
    ),
    "no such thing": (refuses(501, "NotImplemented"), "127.0.0.1 failed at {} (501 NotImplemented)"),
    "no store": (garbage, "127.0.0.1 failed at {} with HTTP status 404 and no S3 error code"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_refusal_is_one_line_before_a_run_begins(proxy: StoreProxy, store: S3Store, url: str, fault: str) -> None:
    proxy.make("ListObjectsV2", REFUSED[fault][0], times=ALWAYS)
    line = error_line(store.check_access, url, UsageError)
    assert line == REFUSED[fault][1].format("ListObjectsV2", bucket=store._bucket)
    assert proxy.requests == ["ListObjectsV2"], "it is asked once"


@pytest.mark.parametrize("fault", REFUSED)
@pytest.mark.parametrize(
    ("operation", "use"),
    [("ListObjectsV2", put), ("GetObject", got), ("DeleteObject", dropped)],
    ids=["put", "get", "drop"],
)
def test_a_refusal_during_a_run_is_said_at_once(
    proxy: StoreProxy, store: S3Store, url: str, operation: str, use: Callable[[Store, bytes], object], fault: str
) -> None:
    proxy.make(operation, REFUSED[fault][0], times=ALWAYS)
    assert error_line(lambda: use(store, SMALL), url) == REFUSED[fault][1].format(operation, bucket=store._bucket)
    assert proxy.requests == [operation], "it is asked once"


@pytest.mark.parametrize(
    "operation", ["ListObjectsV2", "ListMultipartUploads", "PutObject", "GetObject", "DeleteObject"]
)
def test_every_permission_is_tried_before_a_run_begins(
    proxy: StoreProxy, store: S3Store, url: str, operation: str
) -> None:
    proxy.make(operation, refuses(403, "AccessDenied"))
    line = error_line(store.check_access, url, UsageError)
    for key in left(proxy, store):  # what could not be deleted
        proxy.client.delete_object(Bucket=store._bucket, Key=key)
    assert line == f"127.0.0.1 rejects {operation} with these credentials (AccessDenied)"


def test_a_store_that_gives_back_something_else_is_told(proxy: StoreProxy, store: S3Store, url: str) -> None:
    def other(handler: object) -> None:
        handler.body()  # type: ignore[attr-defined]
        handler.send_response_only(200)  # type: ignore[attr-defined]
        handler.answer(b"other")  # type: ignore[attr-defined]

    proxy.make("GetObject", other)
    line = error_line(store.check_access, url, UsageError)
    assert line == "127.0.0.1 did not return the stored data"


def test_a_code_of_the_store_stays_one_harmless_line(proxy: StoreProxy, store: S3Store, url: str) -> None:
    proxy.make("ListObjectsV2", refuses(400, "Bad\n\u009b2J" + "x" * 1000))
    assert len(error_line(store.check_access, url, UsageError)) < 150


def test_a_prefix_in_place_of_the_bucket_is_named(proxy: StoreProxy) -> None:
    line = error_line(
        lambda: open_backend(StoreConfig("s3://models/run1", 0), PATIENCE), "s3://models/run1", UsageError
    )
    assert line == "bucket 'models' not found at 127.0.0.1; create it, or put the bucket first: s3://BUCKET/models/run1"
    assert proxy.requests == ["ListObjectsV2"]


@pytest.mark.parametrize("prefix", ["", "/fedws"])
@pytest.mark.parametrize("is_repeated", [True, False], ids=["bucket in both URLs", "bucket in the endpoint alone"])
def test_a_bucket_in_the_endpoint_is_named(
    proxy: StoreProxy, store: S3Store, prefix: str, is_repeated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = store._bucket
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_port}/{bucket}/")
    named = bucket if is_repeated else "models"
    line = error_line(
        lambda: open_backend(StoreConfig(f"s3://{named}{prefix}", 0), PATIENCE), f"s3://{named}{prefix}", UsageError
    )
    advice = f"if '/{bucket}' names the bucket, remove it from AWS_ENDPOINT_URL"
    assert line == f"bucket '{named}' not found at 127.0.0.1/{bucket}; {advice}"
    assert len(proxy.requests) == 1, "nothing is stored"


ACTIONS = {
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "ListParts": "s3:ListMultipartUploadParts",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "GetObject": "s3:GetObject",
    "DeleteObject": "s3:DeleteObject",
}
"""What a policy calls the permission that a request needs (Amazon S3's reference of its API)."""


def test_the_policy_in_the_documentation_is_what_is_needed(proxy: StoreProxy, store: S3Store) -> None:
    page = (REPOSITORY / "docs" / "howto" / "object-store.md").read_text(encoding="utf-8")
    policy, _ = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    allowed = {action: rule["Resource"] for rule in policy["Statement"] for action in rule["Action"]}
    store.check_access()
    proxy.make("UploadPart", refuses(403, "AccessDenied"), skip=1)
    error_line(lambda: put(store, LARGE), store._url)
    put(store, LARGE)
    got(store, LARGE)
    store.delete(RUN, name(LARGE))
    proxy.client.create_multipart_upload(Bucket=store._bucket, Key=f"fedws/{RUN}/{name(LARGE)}")
    store.delete_run(RUN)
    asked = {request.partition(" ")[0] for request in proxy.requests}
    assert asked == set(ACTIONS), "the test asks for all there is"
    assert set(allowed) == {ACTIONS[operation] for operation in asked}
    of_bucket = {"s3:ListBucket", "s3:ListBucketMultipartUploads"}
    assert {action for action, place in allowed.items() if place == "arn:aws:s3:::models"} == of_bucket
    assert {place for action, place in allowed.items() if action not in of_bucket} == {"arn:aws:s3:::models/fedws/*"}


# --------------------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    ("gone", "code"),
    [("AWS_ACCESS_KEY_ID", "NoCredentialsError"), ("AWS_SECRET_ACCESS_KEY", "PartialCredentialsError")],
)
def test_missing_credentials_are_told(
    proxy: StoreProxy, url: str, gone: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(gone)
    line = error_line(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
    assert line == f"no valid credentials ({code}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    assert proxy.requests == []


def test_a_profile_that_is_not_there_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    line = error_line(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
    assert line == (
        "no valid credentials (ProfileNotFound); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )


@pytest.mark.parametrize("endpoint", ["nowhere", "http://[::1", "http://127.0.0.1:port"])
def test_an_endpoint_that_is_none_is_told(url: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    line = error_line(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
    assert line == "cannot set up boto3 from this environment (ValueError); check the AWS_ variables and ~/.aws"


def test_a_store_that_nobody_serves_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    line = error_line(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
    assert line == "127.0.0.1 cannot be reached in 4 consecutive attempts"


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UsageError, match=r"^s3:// requires boto3; pip install 'fedws\[s3\]'$"):
        open_backend(StoreConfig("s3://bucket/x", 0), PATIENCE)


def test_a_bucket_is_reached_over_tls_where_its_certificate_is_trusted(
    proxy: StoreProxy, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificates.create_ca(tmp_path)
    certificates.issue_certificate(tmp_path, "localhost")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(tmp_path / "localhost.pem", tmp_path / "localhost.key")
    with StoreProxy(proxy.behind, tls) as secure:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{secure.server_port}")
        line = error_line(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
        assert line == "the certificate of localhost is not trusted; set AWS_CA_BUNDLE to the file of its CA"
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        store = open_backend(StoreConfig(url, 0), PATIENCE)
        put(store, LARGE)
        assert got(store, LARGE) == LARGE


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///x", "s3://b", "s3://bucket:80/x", "s3://bucket/a//b", "s3://bucket/../x%2f", "s3://bucket/a b"],
)
def test_a_url_that_is_no_bucket_is_told(url: str) -> None:
    with pytest.raises(UsageError, match=r"is not a valid URL of a bucket; use the form s3://BUCKET/PREFIX with "):
        S3Store(url, PATIENCE)
