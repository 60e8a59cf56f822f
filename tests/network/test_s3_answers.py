"""Answers of an S3 store that are incomplete, malformed, slow or missing."""

import re
import time
from urllib.parse import parse_qs

import pytest

from fedws.object_store import s3_client
from fedws.object_store.backends.s3 import S3Store
from fedws.object_store.watchdog import Progress
from tests.helpers.s3_proxy import ALWAYS, Handler, StoreProxy, answers, dribbles, hangs, refuses, stalls
from tests.helpers.s3_store import LARGE, OTHER, PATIENCE, RUN, SMALL, dropped, error_line, got, left, name, put
from tests.helpers.s3_store import own as own
from tests.helpers.s3_store import pauses as pauses
from tests.helpers.s3_store import proxies as proxies
from tests.helpers.s3_store import proxy as proxy
from tests.helpers.s3_store import store as store
from tests.helpers.s3_store import url as url

LITTLE = 0.5
"""Seconds, where something hangs."""
WAITED = r"(127\.0\.0\.1 does not respond.*|no progress in 0\.5 s)"
"""The error then; on a busy machine the second may come first."""
BOUND = 20.0
"""Seconds that nothing here takes, also on a busy machine, unless it waits without a bound."""


# --------------------------------------------------------------------------- listings, and missing parts of answers


def test_only_a_runs_own_is_cleaned_up_also_where_prefixes_are_not_heeded(proxy: StoreProxy, store: S3Store) -> None:
    def everything(handler: Handler) -> None:
        handler.path = re.sub(r"prefix=[^&]*", "prefix=", handler.path)
        handler.body()
        handler.forward()

    others = [f"fedws/{OTHER}/{name(SMALL)}", "fedws/mine.txt"]
    for key in others:
        proxy.client.put_object(Bucket=store._bucket, Key=key, Body=b"")
    upload = proxy.client.create_multipart_upload(Bucket=store._bucket, Key="theirs")["UploadId"]
    put(store, SMALL)
    for operation in ("ListObjectsV2", "ListMultipartUploads"):
        proxy.make(operation, everything, times=ALWAYS)
    store.delete_run(RUN)
    assert left(proxy, store) == [*others, "theirs"]
    for key in others:
        proxy.client.delete_object(Bucket=store._bucket, Key=key)
    proxy.client.abort_multipart_upload(Bucket=store._bucket, Key="theirs", UploadId=upload)


def narrow(handler: Handler) -> None:
    """One result in each page."""
    handler.path += "&max-keys=1&max-parts=1"
    handler.body()
    handler.forward()


def test_all_pages_are_read(proxy: StoreProxy, store: S3Store, url: str) -> None:
    proxy.make("UploadPart", refuses(403, "AccessDenied"), skip=2)
    error_line(lambda: put(store, LARGE), url)
    for operation in ("ListObjectsV2", "ListParts"):
        proxy.make(operation, narrow, times=ALWAYS)
    proxy.requests.clear()
    put(store, LARGE)
    assert [request for request in proxy.requests if request.startswith("UploadPart")] == ["UploadPart 3"]
    assert got(store, LARGE) == LARGE
    put(store, SMALL)
    proxy.requests.clear()
    store.delete_run(RUN)
    assert (left(proxy, store), proxy.requests.count("ListObjectsV2")) == ([], 2)


def test_all_pages_of_unfinished_uploads_are_read(proxy: StoreProxy, store: S3Store, url: str) -> None:
    """moto gives all in one."""
    asked: list[dict[str, list[str]]] = []

    def first(handler: Handler) -> None:
        page = (
            "<IsTruncated>true</IsTruncated><NextKeyMarker>a</NextKeyMarker><NextUploadIdMarker>b</NextUploadIdMarker>"
        )
        answers(f"<ListMultipartUploadsResult>{page}</ListMultipartUploadsResult>".encode())(handler)

    def second(handler: Handler) -> None:
        asked.append(parse_qs(handler.path))
        handler.body()
        handler.forward()

    proxy.client.create_multipart_upload(Bucket=store._bucket, Key=f"fedws/{RUN}/{name(LARGE)}")
    proxy.make("ListMultipartUploads", first)
    proxy.make("ListMultipartUploads", second)
    store.delete_run(RUN)
    assert [(found["key-marker"], found["upload-id-marker"]) for found in asked] == [(["a"], ["b"])]
    assert left(proxy, store) == []


KEY = f"<Key>fedws/{RUN}/{name(LARGE)}</Key>"
MALFORMED = {
    "no size": ("ListObjectsV2", f"<Contents>{KEY}</Contents>"),
    "a size in words": ("ListObjectsV2", f"<Contents>{KEY}<Size>many</Size></Contents>"),
    "no key": ("ListObjectsV2", "<Contents><Size>1</Size></Contents>"),
    "two keys": ("ListObjectsV2", f"<Contents>{KEY}{KEY}<Size>1</Size></Contents>"),
    "no result": ("ListObjectsV2", "<Contents>1</Contents>"),
    "no next page": ("ListObjectsV2", "<IsTruncated>true</IsTruncated>"),
    "no beginning": ("ListMultipartUploads", f"<Upload>{KEY}<UploadId>u</UploadId></Upload>"),
    "a beginning in words": (
        "ListMultipartUploads",
        f"<Upload>{KEY}<UploadId>u</UploadId><Initiated>once</Initiated></Upload>",
    ),
    "no upload": ("ListMultipartUploads", f"<Upload>{KEY}<Initiated>2026-01-01T00:00:00Z</Initiated></Upload>"),
    "no new upload": ("CreateMultipartUpload", ""),
    "no tag": ("UploadPart", ""),
    "no tag of a part": ("ListParts", "<Part><PartNumber>1</PartNumber><Size>8388608</Size></Part>"),
    "no number of a part": ("ListParts", '<Part><Size>8388608</Size><ETag>"0"</ETag></Part>'),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_an_answer_lacks_is_told(proxy: StoreProxy, store: S3Store, url: str, what: str) -> None:
    operation, body = MALFORMED[what]
    if operation == "ListParts":
        proxy.client.create_multipart_upload(Bucket=store._bucket, Key=f"fedws/{RUN}/{name(LARGE)}")
    proxy.make(operation, answers(f"<Result>{body}</Result>".encode()), times=ALWAYS)
    assert error_line(lambda: put(store, LARGE), url) == "the server at 127.0.0.1 is not an S3 store"
    assert [request.partition(" ")[0] for request in proxy.requests].count(operation) == 1


def test_an_object_of_no_size_is_told(proxy: StoreProxy, store: S3Store, url: str) -> None:
    def unsized(handler: Handler) -> None:
        handler.body()
        handler.send_response_only(200)
        handler.end_headers()
        handler.wfile.write(SMALL)
        handler.close_connection = True

    proxy.make("GetObject", unsized, times=ALWAYS)
    assert error_line(lambda: got(store, SMALL), url) == "the server at 127.0.0.1 is not an S3 store"


# --------------------------------------------------------------------------- hangs and progress


@pytest.mark.parametrize("operation", ["ListObjectsV2", "PutObject", "GetObject", "DeleteObject"])
def test_nothing_waits_without_a_bound(proxy: StoreProxy, url: str, operation: str) -> None:
    store = S3Store(url, LITTLE)
    proxy.make(operation, hangs, times=ALWAYS)
    use = {"GetObject": got, "DeleteObject": dropped}.get(operation, put)
    began = time.monotonic()
    assert re.fullmatch(WAITED, error_line(lambda: use(store, SMALL), url))
    assert time.monotonic() - began < BOUND


def test_a_body_that_stalls_ends(proxy: StoreProxy, store: S3Store, url: str) -> None:
    put(store, SMALL)
    proxy.make("GetObject", stalls(500), times=ALWAYS)
    began = time.monotonic()
    assert re.fullmatch(WAITED, error_line(lambda: got(S3Store(url, LITTLE), SMALL), url))
    assert time.monotonic() - began < BOUND


@pytest.mark.parametrize("operation", ["GetObject", "ListObjectsV2"])
def test_what_dribbles_is_no_progress(proxy: StoreProxy, store: S3Store, url: str, operation: str) -> None:
    put(store, SMALL)
    proxy.make(operation, dribbles, times=ALWAYS)
    use = got if operation == "GetObject" else put
    began = time.monotonic()
    assert error_line(lambda: use(S3Store(url, LITTLE), SMALL), url) == "no progress in 0.5 s"
    assert time.monotonic() - began < BOUND


def endless(handler: Handler) -> None:
    """A page of nothing that is ours, and always another one."""
    page = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{time.monotonic()}</NextContinuationToken>"
    answers(f"<ListBucketResult>{page}<Contents><Key>k</Key><Size>1</Size></Contents></ListBucketResult>".encode())(
        handler
    )


def test_a_listing_without_an_end_is_no_progress(proxy: StoreProxy, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_client, "MAX_PAGES", 10**9)
    proxy.make("ListObjectsV2", endless, times=ALWAYS)
    began = time.monotonic()
    assert error_line(lambda: put(S3Store(url, LITTLE), SMALL), url) == "no progress in 0.5 s"
    assert time.monotonic() - began < BOUND


def test_a_listing_has_a_number_of_pages(
    proxy: StoreProxy, store: S3Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "MAX_PAGES", 7)
    proxy.make("ListObjectsV2", endless, times=ALWAYS)
    assert error_line(lambda: store.delete_run(RUN), url) == "listing at 127.0.0.1 exceeds the limit of 7 pages"
    assert proxy.requests.count("ListObjectsV2") == 7


def test_every_byte_is_progress(proxy: StoreProxy, store: S3Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[int] = []
    monkeypatch.setattr(Progress, "add_bytes", lambda self, count: moved.append(count))
    for body in (SMALL, LARGE):
        put(store, body)
        assert sum(moved) >= len(body) and max(moved) <= 2**20  # the client reads what it sends for its signature too
        moved.clear()
        assert got(store, body) == body
        assert sum(moved) == len(body) and max(moved) <= 1024 * PATIENCE
        moved.clear()


def test_what_is_sent_slowly_is_progress(proxy: StoreProxy, store: S3Store) -> None:
    """It is sent as a file, in small blocks: bytes would have to be sent whole within the time of one silence."""
    bodies: list[object] = []

    def seen(params: dict[str, object], **_: object) -> None:
        bodies.append(params["Body"])

    for operation in ("PutObject", "UploadPart"):
        store._client.meta.events.register(f"before-parameter-build.s3.{operation}", seen)
    put(store, SMALL)
    put(store, LARGE)
    assert len(bodies) == 4 and all(hasattr(body, "read") for body in bodies)


def test_a_hang_that_passes_is_no_harm(proxy: StoreProxy, url: str) -> None:
    """Within a patience of which a try takes a sixth."""
    store = S3Store(url, 3.0)
    proxy.make("PutObject", hangs)
    put(store, SMALL)
    assert got(store, SMALL) == SMALL
