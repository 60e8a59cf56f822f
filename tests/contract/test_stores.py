"""Every registered store: blobs that are put, read and deleted, also by threads and by processes that end early."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fedws.core.errors import StoreError, UsageError
from fedws.object_store.base import PART_BYTES, StoreConfig, open_backend
from tests.helpers.store_places import LARGE, OTHER, PATIENCE, RUN, Place, blob, got, views
from tests.helpers.store_places import place as place
from tests.helpers.store_places import s3 as s3
from tests.helpers.support import REPOSITORY
from tests.unit.object_store.test_base import BAD_NAMES, BAD_RUNS


@pytest.mark.parametrize("size", [0, 1, 1000, PART_BYTES, PART_BYTES + 1, LARGE])
def test_what_is_put_is_got(place: Place, size: int) -> None:
    name, body = blob(size)
    place.store.put(RUN, name, views(body))
    assert place.left() == [f"{RUN}/{name}"]
    around = bytearray(b"#" * (size + 20))
    place.store.get(RUN, name, memoryview(around)[10 : 10 + size])
    assert around == b"#" * 10 + body + b"#" * 10


def test_a_blob_that_is_there_is_not_sent_again(place: Place) -> None:
    name, body = blob(1000)
    place.store.put(RUN, name, [memoryview(body)])
    place.store.put(RUN, name, [memoryview(bytes(1000))])
    assert got(place.store, name, 1000) == body


def test_one_of_another_size_is_replaced(place: Place) -> None:
    name, body = blob(1000)
    place.store.put(RUN, name, [memoryview(body)[:999]])
    place.store.put(RUN, name, [memoryview(body)])
    assert got(place.store, name, 1000) == body


@pytest.mark.parametrize("size", [0, 999, 1001, LARGE])
def test_a_blob_of_another_size_is_an_error(place: Place, size: int) -> None:
    name, body = blob(1000)
    store = place.store
    store.put(RUN, name, [memoryview(body)])
    into = bytearray(size)
    with pytest.raises(StoreError) as caught:
        store.get(RUN, name, memoryview(into))
    assert str(caught.value) == f"{place.url}: blob {name} has 1000 bytes, expected {size}"
    assert into == bytes(size)


def test_a_blob_that_is_not_there_is_an_error(place: Place) -> None:
    name, body = blob(1000)
    store = place.store
    store.put(OTHER, name, [memoryview(body)])
    with pytest.raises(StoreError) as caught:
        got(store, name, 1000)
    assert str(caught.value) == f"{place.url}: blob {name} not found"


class Later(threading.Event):
    """Set when it has been asked for so often."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._after = after

    def is_set(self) -> bool:
        self._after -= 1
        return self._after < 0


@pytest.mark.parametrize("after", [0, 1, 3, 4, 500])
def test_a_put_that_is_stopped_leaves_nothing(place: Place, after: int) -> None:
    name, body = blob(LARGE)
    stop = Later(after)
    try:
        place.store.put(RUN, name, views(body), stop=stop)
    except StoreError as error:
        assert str(error) == f"{place.url}: stopped"
        assert place.left() == []
    else:
        assert after > 4, "it is asked for at least with every part"
        assert got(place.store, name, LARGE) == body


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_get_that_is_stopped_ends_at_the_next_part(place: Place, after: int) -> None:
    name, body = blob(LARGE)
    place.store.put(RUN, name, views(body))
    into = bytearray(LARGE)
    with pytest.raises(StoreError) as caught:
        place.store.get(RUN, name, memoryview(into), stop=Later(after))
    assert str(caught.value) == f"{place.url}: stopped"
    assert into[2 * PART_BYTES :] == bytes(17)


def test_two_may_write_one_blob_at_once(place: Place) -> None:
    name, body = blob(LARGE)
    start, failed = threading.Barrier(4), []

    def write() -> None:
        store = place.another()
        start.wait()
        try:
            store.put(RUN, name, views(body))
            assert got(store, name, LARGE) == body
        except BaseException as error:
            failed.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert got(place.store, name, LARGE) == body
    place.store.delete_run(RUN)
    assert place.left() == []


def test_a_store_may_be_used_in_many_threads(place: Place) -> None:
    store, failed = place.store, []

    def use(seed: int) -> None:
        try:
            name, body = blob(100_000 + seed, seed)
            store.put(RUN, name, views(body))
            assert got(store, name, len(body)) == body
            store.delete(RUN, name)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert place.left() == []


ENDED = """
import os, signal, sys
from fedws.object_store.base import PART_BYTES, StoreConfig, open_backend

class Body(list):
    passes = 0
    def __iter__(self):
        self.passes += 1
        for number, view in enumerate(super().__iter__()):
            if self.passes > 1 and number == 2:  # the first is for its size
                os.kill(os.getpid(), signal.SIGKILL)
            yield view

url, run, name, path = sys.argv[1:]
body = memoryview(open(path, "rb").read())
body = Body([body[:PART_BYTES], body[PART_BYTES:2 * PART_BYTES], body[2 * PART_BYTES:]])
open_backend(StoreConfig(url, 0), 60.0).put(run, name, body)
"""


def test_what_an_ended_process_left_is_gone_on_with(place: Place, tmp_path: Path) -> None:
    name, body = blob(LARGE)
    (tmp_path / "body").write_bytes(body)
    command = [sys.executable, "-c", ENDED, place.url, RUN, name, str(tmp_path / "body")]
    assert subprocess.run(command, cwd=REPOSITORY, env=os.environ, check=False).returncode == -9
    assert len(place.left()) == 1, "something is unfinished"
    with pytest.raises(StoreError, match=r"blob \w+ not found$"):
        got(place.store, name, LARGE)
    place.store.put(RUN, name, views(body))
    assert got(place.store, name, LARGE) == body
    place.store.delete_run(RUN)
    assert place.left() == []


def test_what_an_ended_process_left_is_cleaned_up(place: Place, tmp_path: Path) -> None:
    name, body = blob(LARGE)
    (tmp_path / "body").write_bytes(body)
    command = [sys.executable, "-c", ENDED, place.url, RUN, name, str(tmp_path / "body")]
    assert subprocess.run(command, cwd=REPOSITORY, env=os.environ, check=False).returncode == -9
    place.store.delete_run(RUN)
    assert place.left() == []


def test_dropping_deletes_one_blob(place: Place) -> None:
    store = place.store
    names = []
    for seed in range(2):
        name, body = blob(100, seed)
        store.put(RUN, name, [memoryview(body)])
        store.put(OTHER, name, [memoryview(body)])
        names.append(name)
    store.delete(RUN, names[0])
    store.delete(RUN, names[0])
    assert place.left() == sorted([f"{RUN}/{names[1]}", f"{OTHER}/{names[0]}", f"{OTHER}/{names[1]}"])


def test_cleaning_deletes_all_of_one_run(place: Place) -> None:
    store = place.store
    store.delete_run(RUN)
    for seed in range(3):
        name, body = blob(100, seed)
        for run in (RUN, OTHER):
            store.put(run, name, [memoryview(body)])
    store.delete_run(RUN)
    assert [key.partition("/")[0] for key in place.left()] == [OTHER] * 3
    store.delete_run(RUN)
    name, body = blob(5)
    store.put(RUN, name, [memoryview(body)])
    assert got(store, name, 5) == body


def test_names_that_are_none_reach_nothing(place: Place) -> None:
    store, good = place.store, blob(1)[0]
    body, into = [memoryview(b"x")], memoryview(bytearray(1))
    said = r"^the (run|name) of a blob is not \d\d hex digits$"
    for run, name in [*((bad, good) for bad in BAD_RUNS), *((RUN, bad) for bad in BAD_NAMES)]:
        with pytest.raises(StoreError, match=said):
            store.put(run, name, body)
        with pytest.raises(StoreError, match=said):
            store.get(run, name, into)
        with pytest.raises(StoreError, match=said):
            store.delete(run, name)
    for run in BAD_RUNS:
        with pytest.raises(StoreError, match=said):
            store.delete_run(run)
    assert place.left() == []


def test_a_check_leaves_nothing(place: Place) -> None:
    place.store.check_access()
    assert place.left() == []


def test_a_wrong_setting_is_one_line(place: Place) -> None:
    with pytest.raises(UsageError) as caught:
        open_backend(StoreConfig(place.missing, 0), PATIENCE)
    assert str(caught.value) == f"{place.missing}: {place.why}"
