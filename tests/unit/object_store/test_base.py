"""What a blob may be called, what a store's URL may be, and how a body is cut in parts."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws.core import registry
from fedws.core.errors import StoreError, UsageError
from fedws.object_store import base
from fedws.object_store.base import (
    StoreConfig,
    build_blob_path,
    open_backend,
    open_store,
    parse_store_url,
    split_into_parts,
)

RUN, NAME = "0123456789abcdef", "0123456789abcdef" * 4
BAD_RUNS = ["", "0", RUN + "0", RUN.upper(), RUN[:-1] + "g", RUN[:-1] + "\n", "../" + RUN[3:], RUN[:-1] + "٣", NAME]
BAD_NAMES = ["", RUN, NAME + "0", NAME.upper(), NAME[:-1] + "/", NAME[:-1] + "\n", "../" + NAME[3:], NAME[:-1] + "\0"]


def test_a_place_is_made_of_hex_digits() -> None:
    assert build_blob_path(RUN, NAME) == f"{RUN}/{NAME}"
    assert build_blob_path(RUN) == RUN


@pytest.mark.parametrize("run", BAD_RUNS, ids=repr)
def test_a_run_of_any_other_form_is_refused(run: str) -> None:
    for name in (NAME, None):
        with pytest.raises(StoreError, match=r"^the run of a blob is not 16 hex digits$"):
            build_blob_path(run, name)


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_name_of_any_other_form_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match=r"^the name of a blob is not 64 hex digits$"):
        build_blob_path(RUN, name)


@given(st.text(), st.text())
def test_whatever_a_peer_says_a_place_is_within_the_store(run: str, name: str) -> None:
    try:
        found = build_blob_path(run, name)
    except StoreError:
        return
    assert found == f"{run}/{name}" and set(found) <= set("0123456789abcdef/") and found.index("/") == 16


@given(st.lists(st.binary(max_size=30)))
def test_parts_are_the_body(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "PART_BYTES", 8)
        found = [b"".join(part) for part in split_into_parts([memoryview(piece) for piece in pieces])]
    assert b"".join(found) == whole
    assert [len(part) for part in found] == [8] * (len(whole) // 8) + [len(whole) % 8] * (len(whole) % 8 > 0)


def test_parts_copy_nothing() -> None:
    body = bytearray(100)
    (part,) = split_into_parts([memoryview(body)[:50], memoryview(body)[50:]])
    body[60] = 7
    assert part[1][10] == 7


LIKE = "use the form s3://BUCKET/PREFIX or file:///PATH"
SECRETS = {
    "s3://user:hunter2@bucket/x": "the URL of a store must not contain '@'; ",
    "s3://hunter2@bucket": "the URL of a store must not contain '@'; ",
    "s3:/user:hunter2@bucket/x": "the URL of a store must not contain '@'; ",
    "s3://user:hunter2@[bucket/x": "the URL of a store must not contain '@'; ",
    "file://user:hunter2@/tmp": "the URL of a store must not contain '@'; ",
    "s3://hunter2[bucket/x": f"the URL of a store is not a valid URL; {LIKE}",
    "s3://bucket/x?X-Amz-Signature=hunter2": f"the URL of a store must not contain '?' or '#'; {LIKE}",
    "file:///tmp#hunter2": f"the URL of a store must not contain '?' or '#'; {LIKE}",
}


@pytest.mark.parametrize("url", SECRETS)
def test_what_may_be_secret_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_backend(StoreConfig(url, 0), 1)
    assert str(caught.value).startswith(SECRETS[url]) and "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or caught.value.__context__ is None)


@pytest.mark.parametrize("url", ["", "/tmp/blobs"])
def test_what_is_no_url_of_a_store_is_told(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_store_url(url)
    assert str(caught.value) == f"{url!r} is not a valid URL of a store; {LIKE}"


def test_a_shelf_is_a_store_that_was_tried(tmp_path: Path) -> None:
    found = open_store(tmp_path.as_uri(), timeout=7)
    assert (found.min_bytes, found.store._timeout) == (1_000_000, 7)  # type: ignore[attr-defined]
    assert open_store(tmp_path.as_uri(), 5).min_bytes == 5
    with pytest.raises(UsageError, match=r"directory not found$"):
        open_store((tmp_path / "none").as_uri())


def test_a_scheme_that_nobody_serves_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError) as caught:
        open_backend(StoreConfig("gs://bucket/x", 0), 1)
    listing = ", ".join(registry.list_pieces("store"))
    assert str(caught.value) == f"gs://bucket/x: unknown scheme 'gs'; choose from {listing}"
    assert {"file", "s3"} <= set(registry.list_pieces("store"))
