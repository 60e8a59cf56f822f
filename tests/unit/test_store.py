"""What a blob may be called, what a store's URL may be, and how a body is cut in parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedws import registry, store
from fedws.errors import StoreError, UsageError
from fedws.store import Setting, opened, parsed, parts, place

RUN, NAME = "0123456789abcdef", "0123456789abcdef" * 4
BAD_RUNS = ["", "0", RUN + "0", RUN.upper(), RUN[:-1] + "g", RUN[:-1] + "\n", "../" + RUN[3:], RUN[:-1] + "٣", NAME]
BAD_NAMES = ["", RUN, NAME + "0", NAME.upper(), NAME[:-1] + "/", NAME[:-1] + "\n", "../" + NAME[3:], NAME[:-1] + "\0"]


def test_a_place_is_made_of_hex_digits() -> None:
    assert place(RUN, NAME) == f"{RUN}/{NAME}"
    assert place(RUN) == RUN


@pytest.mark.parametrize("run", BAD_RUNS, ids=repr)
def test_a_run_of_any_other_form_is_refused(run: str) -> None:
    for name in (NAME, None):
        with pytest.raises(StoreError, match=r"^the run of a blob is not 16 hex digits$"):
            place(run, name)


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_a_name_of_any_other_form_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match=r"^the name of a blob is not 64 hex digits$"):
        place(RUN, name)


@given(st.text(), st.text())
def test_whatever_a_peer_says_a_place_is_within_the_store(run: str, name: str) -> None:
    try:
        found = place(run, name)
    except StoreError:
        return
    assert found == f"{run}/{name}" and set(found) <= set("0123456789abcdef/") and found.index("/") == 16


@given(st.lists(st.binary(max_size=30)))
def test_parts_are_the_body(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "PART", 8)
        found = [b"".join(part) for part in parts([memoryview(piece) for piece in pieces])]
    assert b"".join(found) == whole
    assert [len(part) for part in found] == [8] * (len(whole) // 8) + [len(whole) % 8] * (len(whole) % 8 > 0)


def test_parts_copy_nothing() -> None:
    body = bytearray(100)
    (part,) = parts([memoryview(body)[:50], memoryview(body)[50:]])
    body[60] = 7
    assert part[1][10] == 7


@pytest.mark.parametrize("url", ["s3://user:hunter2@bucket/x", "s3://hunter2@bucket", "file://user:hunter2@/tmp"])
def test_a_password_in_a_url_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        opened(Setting(url, 0), 1)
    assert str(caught.value).startswith("a user or password in the URL of a store (") and "hunter2" not in str(
        caught.value
    )


@pytest.mark.parametrize("url", ["", "/tmp/blobs", "s3://bucket/x?versions", "file:///tmp#x"])
def test_what_is_no_url_of_a_store_is_told(url: str) -> None:
    with pytest.raises(UsageError, match=r"is no store; one looks like s3://bucket/prefix or file:///path$"):
        parsed(url)


def test_a_broken_url_is_told() -> None:
    with pytest.raises(UsageError, match=r"^'s3://\[x' is no store: "):
        parsed("s3://[x")


def test_a_scheme_that_nobody_serves_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError) as caught:
        opened(Setting("gs://bucket/x", 0), 1)
    listing = ", ".join(registry.names("store"))
    assert str(caught.value) == f"gs://bucket/x: no store is reached by gs://; there are {listing}"
    assert {"file", "s3"} <= set(registry.names("store"))
