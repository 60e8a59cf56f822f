"""Uploads and downloads of an S3 store that are tried again, continued after an interruption, or stopped."""

import threading
from random import Random

import pytest

from fedws.object_store.backends.s3 import S3Store
from fedws.object_store.base import PART_BYTES, Store
from fedws.object_store.watchdog import Progress
from tests.helpers.s3_proxy import ALWAYS, Fault, Handler, StoreProxy, cuts_answer, cuts_request, loses_answer, refuses
from tests.helpers.s3_store import LARGE, PATIENCE, RUN, SMALL, error_line, got, left, name, put
from tests.helpers.s3_store import own as own
from tests.helpers.s3_store import pauses as pauses
from tests.helpers.s3_store import proxies as proxies
from tests.helpers.s3_store import proxy as proxy
from tests.helpers.s3_store import store as store
from tests.helpers.s3_store import url as url

# --------------------------------------------------------------------------- failures that pass


PASSING: dict[str, tuple[Fault, str]] = {
    "an error": (refuses(500, "InternalError"), "failed at {} (500 InternalError)"),
    "a lost answer": (loses_answer, "closed the connection"),
    "a lost request": (cuts_request(10), "closed the connection"),
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
    line = error_line(lambda: use(store, SMALL), url)
    assert line == f"127.0.0.1 {PASSING[fault][1].format(operation)} in 4 consecutive attempts"
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


# --------------------------------------------------------------------------- interrupted transfers


def test_an_upload_goes_on_from_its_last_whole_part(proxy: StoreProxy, store: S3Store, url: str) -> None:
    proxy.make("UploadPart", cuts_request(5 * 2**20), times=ALWAYS, skip=1)
    error_line(lambda: put(store, LARGE), url)
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
    line = error_line(lambda: put(store, LARGE), url)
    assert line == f"other processes ended 3 uploads of blob {name(LARGE)}"
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
    assert error_line(lambda: got(store, SMALL), url) == f"blob {name(SMALL)} not found"
    proxy.heal()
    proxy.make("GetObject", cuts_answer(100), times=ALWAYS)
    assert error_line(lambda: got(store, body), url) == "127.0.0.1 closed the connection in 4 consecutive attempts"


# --------------------------------------------------------------------------- stopped transfers


def test_it_stops_between_two_tries(
    proxy: StoreProxy, store: S3Store, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = threading.Event()
    monkeypatch.setattr(Progress, "wait", lambda self, seconds: stop.set())
    proxy.make("ListObjectsV2", refuses(500, "InternalError"), times=ALWAYS)
    assert error_line(lambda: store.put(RUN, name(SMALL), [memoryview(SMALL)], stop=stop), url) == "stopped"
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
    assert error_line(lambda: store.put(RUN, name(LARGE), [memoryview(LARGE)], stop=stop), url) == "stopped"
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
    assert error_line(lambda: store.put(RUN, name(LARGE), [memoryview(LARGE)], stop=stop), url) == "stopped"
