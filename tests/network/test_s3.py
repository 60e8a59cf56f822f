"""An S3 store that fails: what passes is tried again, what does not is said at once, and no line has a secret."""

import json
import re
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from urllib.parse import parse_qs

import pytest

from fedws.core.errors import StoreError, UsageError
from fedws.object_store import s3_client
from fedws.object_store.backends.s3 import S3Store
from fedws.object_store.base import PART_BYTES, Store, StoreConfig, open_backend
from fedws.object_store.watchdog import Progress
from fedws.security import certificates
from tests.helpers.s3_proxy import (
    ALWAYS,
    KEY_ID,
    SECRET,
    Fault,
    Handler,
    StoreProxy,
    answers,
    cuts_answer,
    cuts_request,
    dribbles,
    free_port,
    garbage,
    hangs,
    loses_answer,
    refuses,
    served,
    stalls,
)
from tests.helpers.support import REPOSITORY

RUN, OTHER = "0123456789abcdef", "f" * 16
LARGE = Random(1).randbytes(2 * PART_BYTES + 17)
SMALL = Random(2).randbytes(1000)
PATIENCE = 60.0
"""Where nothing hangs."""
LITTLE = 0.5
"""Where something does."""
WAITED = r"(127\.0\.0\.1 does not answer.*|no progress in 0\.5 s)"
"""What is said then; on a busy machine the second may come first."""
BOUND = 20.0
"""Seconds that nothing here takes, also on a busy machine, unless it waits without a bound."""


@pytest.fixture(scope="module")
def proxies() -> Iterator[StoreProxy]:
    """One for all tests here."""
    with served() as found:
        yield found


@pytest.fixture(scope="module")
def url(proxies: StoreProxy) -> str:
    """A bucket, and a prefix."""
    return f"s3://{proxies.bucket()}/fedws"


@pytest.fixture(scope="module")
def own(url: str) -> S3Store:
    """One for all tests here, since every client of boto3 takes its time to be made."""
    return S3Store(url, PATIENCE)


@pytest.fixture
def store(own: S3Store, proxy: StoreProxy) -> S3Store:
    """Of a node that is patient."""
    return own


@pytest.fixture
def proxy(proxies: StoreProxy, own: S3Store) -> Iterator[StoreProxy]:
    """Without faults yet; what a test stores can be cleaned up."""
    proxies.heal()
    yield proxies
    proxies.heal()
    own.delete_run(RUN)
    assert left(proxies, own) == []


@pytest.fixture(autouse=True)
def pauses(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the store waits between two tries; here it does not."""
    found: list[float] = []
    monkeypatch.setattr(Progress, "wait", lambda self, seconds: found.append(seconds))
    return found


def dropped(store: Store, body: bytes) -> None:
    store.delete(RUN, name(body))


def name(body: bytes) -> str:
    return sha256(body).hexdigest()


def put(store: Store, body: bytes) -> None:
    store.put(RUN, name(body), [memoryview(body)])


def got(store: Store, body: bytes) -> bytes:
    into = bytearray(len(body))
    store.get(RUN, name(body), memoryview(into))
    return bytes(into)


def left(proxy: StoreProxy, store: S3Store) -> list[str]:
    return proxy.left(store._bucket)


def told(use: Callable[[], object], url: str, kind: type[Exception] = StoreError) -> str:
    """The line that it fails with, after the store's name; in which, and in whose causes, there is nothing secret."""
    with pytest.raises(kind) as caught:
        use()
    text = re.sub(r"(127\.0\.0\.1|localhost):\d+", r"\1", str(caught.value))
    assert text.startswith(f"{url}: ") and text.isprintable()
    assert not any(secret in text for secret in (KEY_ID, SECRET, "Signature=", "Credential="))
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or caught.value.__context__ is None)
    return text.removeprefix(f"{url}: ")


# --------------------------------------------------------------------------- what passes

PASSING: dict[str, tuple[Fault, str]] = {
    "an error": (refuses(500, "InternalError"), "fails at {} (500 InternalError)"),
    "a lost answer": (loses_answer, "ended the connection"),
    "a lost request": (cuts_request(10), "ended the connection"),
}
USES = {"PutObject": SMALL, "CreateMultipartUpload": LARGE, "UploadPart": LARGE, "CompleteMultipartUpload": LARGE}
passing = pytest.mark.parametrize("fault", PASSING)


@passing
@pytest.mark.parametrize("operation", ["ListObjectsV2", *USES])
def test_what_passes_is_tried_again(
    proxy: StoreProxy, store: Store, operation: str, fault: str, pauses: list[float]
) -> None:
    body = USES.get(operation, SMALL)
    proxy.make(operation, PASSING[fault][0], times=2)
    put(store, body)
    assert pauses == [0.5, 1.0]
    proxy.heal()
    assert got(store, body) == body


@pytest.mark.parametrize("operation", ["ListObjectsV2", "CreateMultipartUpload", "ListMultipartUploads"])
def test_half_an_answer_is_none(proxy: StoreProxy, store: S3Store, url: str, operation: str) -> None:
    """As half a list, which would be one of less."""
    for cut in (0, 50):
        store.delete_run(RUN)
        proxy.heal()
        proxy.make(operation, cuts_answer(cut))
        put(store, LARGE)
        assert proxy.requests.count(operation) == 2


@passing
def test_reading_is_tried_again(proxy: StoreProxy, store: S3Store, url: str, fault: str) -> None:
    put(store, SMALL)
    proxy.make("GetObject", PASSING[fault][0], times=2)
    assert got(store, SMALL) == SMALL


@passing
@pytest.mark.parametrize("operation", ["ListObjectsV2", "PutObject", "GetObject"])
def test_it_is_tried_a_bounded_number_of_times(
    proxy: StoreProxy, store: S3Store, url: str, operation: str, fault: str
) -> None:
    proxy.make(operation, PASSING[fault][0], times=ALWAYS)
    use = got if operation == "GetObject" else put
    line = told(lambda: use(store, SMALL), url)
    assert line == f"127.0.0.1 {PASSING[fault][1].format(operation)}, 4 times in a row"
    assert proxy.requests.count(operation) == 4


def test_many_lost_answers_are_no_harm(proxy: StoreProxy, store: S3Store, url: str) -> None:
    """The store has done what it is asked again to do."""
    for operation in ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "DeleteObject"):
        proxy.make(operation, loses_answer)
    proxy.make("AbortMultipartUpload", loses_answer)
    for body in (SMALL, LARGE):
        put(store, body)
        assert got(store, body) == body
        store.delete(RUN, name(body))
    store.delete_run(RUN)
    assert left(proxy, store) == []


# --------------------------------------------------------------------------- what was interrupted


def test_an_upload_goes_on_from_its_last_whole_part(proxy: StoreProxy, store: S3Store, url: str) -> None:
    proxy.make("UploadPart", cuts_request(5 * 2**20), times=ALWAYS, skip=1)
    told(lambda: put(store, LARGE), url)
    proxy.heal()
    put(S3Store(url, PATIENCE), LARGE)  # of another process
    sent = [request for request in proxy.requests if request.startswith(("Upload", "Create"))]
    assert sent == ["UploadPart 2", "UploadPart 3"]
    assert got(store, LARGE) == LARGE
    assert left(proxy, store) == [f"fedws/{RUN}/{name(LARGE)}"]


@pytest.mark.parametrize("wrong", [bytes(PART_BYTES), LARGE[:PART_BYTES] + b"x"], ids=["bytes", "size"])
def test_parts_with_other_bytes_are_sent_again(proxy: StoreProxy, store: S3Store, url: str, wrong: bytes) -> None:
    at = {"Bucket": url.split("/")[2], "Key": f"fedws/{RUN}/{name(LARGE)}"}
    upload = proxy.client.create_multipart_upload(**at)["UploadId"]
    for number, part in ((1, wrong), (2, LARGE[PART_BYTES : 2 * PART_BYTES]), (7, b"more")):
        proxy.client.upload_part(**at, UploadId=upload, PartNumber=number, Body=part)
    put(store, LARGE)
    assert [request for request in proxy.requests if "Upload" in request and request != "ListMultipartUploads"] == [
        "UploadPart 1",
        "UploadPart 3",
        "CompleteMultipartUpload",
    ]
    assert got(store, LARGE) == LARGE


def test_an_upload_that_was_ended_by_others_is_begun_again(proxy: StoreProxy, store: S3Store, url: str) -> None:

    def ends(handler: object) -> None:
        store.delete_run(RUN)
        refuses(404, "NoSuchUpload")(handler)  # type: ignore[arg-type]

    proxy.make("UploadPart", ends, skip=1)
    put(store, LARGE)
    assert got(store, LARGE) == LARGE
    assert proxy.requests.count("CreateMultipartUpload") == 2


def test_an_upload_that_others_complete_may_be_listed_later(proxy: StoreProxy, store: S3Store, url: str) -> None:
    """Between the end of the upload and the object in the listing, a busy store can take a second or more."""
    done = proxy.client.put_object
    at = {"Bucket": url.split("/")[2], "Key": f"fedws/{RUN}/{name(LARGE)}"}
    ended = 0

    def ends(handler: object) -> None:
        nonlocal ended
        ended += 1
        refuses(404, "NoSuchUpload")(handler)  # type: ignore[arg-type]
        if ended == 3:
            done(**at, Body=LARGE)

    proxy.make("UploadPart", ends, times=3)
    put(store, LARGE)
    assert got(store, LARGE) == LARGE
    assert "CompleteMultipartUpload" not in proxy.requests


def test_an_upload_that_others_end_without_end_is_given_up(proxy: StoreProxy, store: S3Store, url: str) -> None:
    proxy.make("CompleteMultipartUpload", refuses(404, "NoSuchUpload"), times=ALWAYS)
    line = told(lambda: put(store, LARGE), url)
    assert line == f"others end the upload of blob {name(LARGE)} again and again"
    assert proxy.requests.count("CompleteMultipartUpload") == 3, "it is begun anew twice"


@pytest.mark.parametrize("cut", [1, PART_BYTES, PART_BYTES + 5, len(LARGE) - 1])
def test_reading_goes_on_where_it_stopped(proxy: StoreProxy, store: S3Store, url: str, cut: int) -> None:
    put(store, LARGE)
    proxy.make("GetObject", cuts_answer(cut))
    into = bytearray(b"#" * len(LARGE))
    read = spied(store)
    store.get(RUN, name(LARGE), memoryview(into))
    assert into == LARGE
    assert proxy.requests.count("GetObject") == 2
    (rest,) = (int(each.removeprefix("bytes=").removesuffix("-")) for each in read if each)
    assert cut - 2**20 <= rest <= cut


def spied(store: S3Store) -> list[str]:
    """The ranges that are asked for from now on."""
    found: list[str] = []
    store._client.meta.events.register(
        "before-parameter-build.s3.GetObject", lambda params, **_: found.append(params.get("Range", ""))
    )
    return found


def test_a_connection_may_drop_often_as_long_as_parts_arrive(proxy: StoreProxy, store: S3Store, url: str) -> None:
    body = Random(3).randbytes(6 * PART_BYTES)
    put(store, body)
    proxy.make("GetObject", cuts_answer(PART_BYTES), times=5)
    assert got(store, body) == body
    proxy.make("GetObject", cuts_answer(PART_BYTES - 2**20), times=ALWAYS)
    assert told(lambda: got(store, SMALL), url) == f"blob {name(SMALL)} is not there"
    proxy.heal()
    proxy.make("GetObject", cuts_answer(100), times=ALWAYS)
    assert told(lambda: got(store, body), url) == "127.0.0.1 ended the connection, 4 times in a row"


# --------------------------------------------------------------------------- what is allowed and deleted


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
    page = (REPOSITORY / "docs" / "blobs.md").read_text(encoding="utf-8")
    policy, _ = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    allowed = {action: rule["Resource"] for rule in policy["Statement"] for action in rule["Action"]}
    store.check_access()
    proxy.make("UploadPart", refuses(403, "AccessDenied"), skip=1)
    told(lambda: put(store, LARGE), store._url)
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


# --------------------------------------------------------------------------- listings, and what they may lack


def narrow(handler: Handler) -> None:
    """One result in each page."""
    handler.path += "&max-keys=1&max-parts=1"
    handler.body()
    handler.forward()


def test_all_pages_are_read(proxy: StoreProxy, store: S3Store, url: str) -> None:
    proxy.make("UploadPart", refuses(403, "AccessDenied"), skip=2)
    told(lambda: put(store, LARGE), url)
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
    assert told(lambda: put(store, LARGE), url) == "what answers at 127.0.0.1 is no S3 store"
    assert [request.partition(" ")[0] for request in proxy.requests].count(operation) == 1


def test_an_object_of_no_size_is_told(proxy: StoreProxy, store: S3Store, url: str) -> None:
    def unsized(handler: Handler) -> None:
        handler.body()
        handler.send_response_only(200)
        handler.end_headers()
        handler.wfile.write(SMALL)
        handler.close_connection = True

    proxy.make("GetObject", unsized, times=ALWAYS)
    assert told(lambda: got(store, SMALL), url) == "what answers at 127.0.0.1 is no S3 store"


# --------------------------------------------------------------------------- what is stopped


def test_it_stops_between_two_tries(
    proxy: StoreProxy, store: S3Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    monkeypatch.setattr(Progress, "wait", lambda self, seconds: stop.set())
    proxy.make("ListObjectsV2", refuses(500, "InternalError"), times=ALWAYS)
    assert told(lambda: store.put(RUN, name(SMALL), [memoryview(SMALL)], stop=stop), url) == "stopped"
    assert proxy.requests == ["ListObjectsV2"]


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
def test_an_upload_that_is_stopped_is_ended(proxy: StoreProxy, store: S3Store, url: str, operation: str) -> None:
    """Also when it has begun just now, or what stopped it came with an error."""
    stop = threading.Event()

    def during(handler: Handler) -> None:
        stop.set()
        handler.body()
        if operation == "CompleteMultipartUpload":
            handler.refuse(500, "InternalError")
        else:
            handler.forward()

    proxy.make(operation, during)
    assert told(lambda: store.put(RUN, name(LARGE), [memoryview(LARGE)], stop=stop), url) == "stopped"
    assert left(proxy, store) == []
    assert proxy.requests[-1] == "AbortMultipartUpload"


def test_where_it_cannot_be_ended_it_stops_too(proxy: StoreProxy, store: S3Store, url: str) -> None:
    stop = threading.Event()

    def during(handler: Handler) -> None:
        stop.set()
        handler.body()
        handler.forward()

    proxy.make("UploadPart", during)
    proxy.make("AbortMultipartUpload", refuses(403, "AccessDenied"))
    assert told(lambda: store.put(RUN, name(LARGE), [memoryview(LARGE)], stop=stop), url) == "stopped"


# --------------------------------------------------------------------------- what hangs


@pytest.mark.parametrize("operation", ["ListObjectsV2", "PutObject", "GetObject", "DeleteObject"])
def test_nothing_waits_without_a_bound(proxy: StoreProxy, url: str, operation: str) -> None:
    store = S3Store(url, LITTLE)
    proxy.make(operation, hangs, times=ALWAYS)
    use = {"GetObject": got, "DeleteObject": dropped}.get(operation, put)
    began = time.monotonic()
    assert re.fullmatch(WAITED, told(lambda: use(store, SMALL), url))
    assert time.monotonic() - began < BOUND


def test_a_body_that_stalls_ends(proxy: StoreProxy, store: S3Store, url: str) -> None:
    put(store, SMALL)
    proxy.make("GetObject", stalls(500), times=ALWAYS)
    began = time.monotonic()
    assert re.fullmatch(WAITED, told(lambda: got(S3Store(url, LITTLE), SMALL), url))
    assert time.monotonic() - began < BOUND


@pytest.mark.parametrize("operation", ["GetObject", "ListObjectsV2"])
def test_what_dribbles_is_no_progress(proxy: StoreProxy, store: S3Store, url: str, operation: str) -> None:
    put(store, SMALL)
    proxy.make(operation, dribbles, times=ALWAYS)
    use = got if operation == "GetObject" else put
    began = time.monotonic()
    assert told(lambda: use(S3Store(url, LITTLE), SMALL), url) == "no progress in 0.5 s"
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
    assert told(lambda: put(S3Store(url, LITTLE), SMALL), url) == "no progress in 0.5 s"
    assert time.monotonic() - began < BOUND


def test_a_listing_has_a_number_of_pages(
    proxy: StoreProxy, store: S3Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "MAX_PAGES", 7)
    proxy.make("ListObjectsV2", endless, times=ALWAYS)
    assert told(lambda: store.delete_run(RUN), url) == "127.0.0.1 lists more than 7 pages"
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


# --------------------------------------------------------------------------- what is said at once

REFUSED: dict[str, tuple[Fault, str]] = {
    "no permission": (refuses(403, "AccessDenied"), "127.0.0.1 refuses {} with these credentials (AccessDenied)"),
    "unknown key": (
        refuses(403, "InvalidAccessKeyId"),
        "127.0.0.1 refuses {} with these credentials (InvalidAccessKeyId)",
    ),
    "wrong secret": (
        refuses(403, "SignatureDoesNotMatch"),
        "127.0.0.1 refuses {} with these credentials (SignatureDoesNotMatch)",
    ),
    "out of date": (refuses(400, "ExpiredToken"), "127.0.0.1 refuses {} with these credentials (ExpiredToken)"),
    "a clock ahead": (
        refuses(403, "RequestTimeTooSkewed", 3600),
        "this machine's clock is 60 minutes ahead of the store's, which therefore refuses; set the clock",
    ),
    "a clock behind": (
        refuses(403, "RequestTimeTooSkewed", -7200),
        "this machine's clock is 120 minutes behind the store's, which therefore refuses; set the clock",
    ),
    "no bucket": (refuses(404, "NoSuchBucket"), "there is no such bucket at 127.0.0.1"),
    "another region": (
        refuses(400, "AuthorizationHeaderMalformed"),
        "the bucket is in another region (AuthorizationHeaderMalformed); set AWS_DEFAULT_REGION",
    ),
    "no such thing": (refuses(501, "NotImplemented"), "127.0.0.1 fails at {} (501 NotImplemented)"),
    "no store": (garbage, "127.0.0.1 fails at {}, not as an S3 store would (404)"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_refusal_is_one_line_before_a_run_begins(proxy: StoreProxy, store: S3Store, url: str, fault: str) -> None:
    proxy.make("ListObjectsV2", REFUSED[fault][0], times=ALWAYS)
    line = told(store.check_access, url, UsageError)
    assert line == REFUSED[fault][1].format("ListObjectsV2")
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
    assert told(lambda: use(store, SMALL), url) == REFUSED[fault][1].format(operation)
    assert proxy.requests == [operation], "it is asked once"


@pytest.mark.parametrize(
    "operation", ["ListObjectsV2", "ListMultipartUploads", "PutObject", "GetObject", "DeleteObject"]
)
def test_every_permission_is_tried_before_a_run_begins(
    proxy: StoreProxy, store: S3Store, url: str, operation: str
) -> None:
    proxy.make(operation, refuses(403, "AccessDenied"))
    line = told(store.check_access, url, UsageError)
    for key in left(proxy, store):  # what could not be deleted
        proxy.client.delete_object(Bucket=store._bucket, Key=key)
    assert line == f"127.0.0.1 refuses {operation} with these credentials (AccessDenied)"


def test_a_store_that_gives_back_something_else_is_told(proxy: StoreProxy, store: S3Store, url: str) -> None:
    def other(handler: object) -> None:
        handler.body()  # type: ignore[attr-defined]
        handler.send_response_only(200)  # type: ignore[attr-defined]
        handler.answer(b"other")  # type: ignore[attr-defined]

    proxy.make("GetObject", other)
    line = told(store.check_access, url, UsageError)
    assert line == "127.0.0.1 does not give back what was stored"


def test_a_code_of_the_store_stays_one_harmless_line(proxy: StoreProxy, store: S3Store, url: str) -> None:
    proxy.make("ListObjectsV2", refuses(400, "Bad\n\u009b2J" + "x" * 1000))
    assert len(told(store.check_access, url, UsageError)) < 150


# --------------------------------------------------------------------------- the environment


@pytest.mark.parametrize(
    ("gone", "code"),
    [("AWS_ACCESS_KEY_ID", "NoCredentialsError"), ("AWS_SECRET_ACCESS_KEY", "PartialCredentialsError")],
)
def test_missing_credentials_are_told(
    proxy: StoreProxy, url: str, gone: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(gone)
    line = told(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
    assert line == f"no credentials ({code}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    assert proxy.requests == []


def test_a_profile_that_is_not_there_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    line = told(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
    assert line == "no credentials (ProfileNotFound): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


@pytest.mark.parametrize("endpoint", ["nowhere", "http://[::1", "http://127.0.0.1:port"])
def test_an_endpoint_that_is_none_is_told(url: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    line = told(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
    assert line == "boto3 cannot be set up from this environment (ValueError)"


def test_a_store_that_nobody_serves_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    line = told(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
    assert line == "127.0.0.1 cannot be reached, 4 times in a row"


def test_without_boto3_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UsageError, match=r"^s3:// needs boto3: pip install 'fedws\[s3\]'$"):
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
        line = told(lambda: open_backend(StoreConfig(url, 0), PATIENCE), url, UsageError)
        assert line == "localhost has no certificate that is trusted here; AWS_CA_BUNDLE names whom to trust"
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        store = open_backend(StoreConfig(url, 0), PATIENCE)
        put(store, LARGE)
        assert got(store, LARGE) == LARGE


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3:///x", "s3://b", "s3://bucket:80/x", "s3://bucket/a//b", "s3://bucket/../x%2f", "s3://bucket/a b"],
)
def test_a_url_that_is_no_bucket_is_told(url: str) -> None:
    with pytest.raises(UsageError, match=r"is no bucket; one looks like s3://bucket/prefix, of letters, digits and "):
        S3Store(url, PATIENCE)
