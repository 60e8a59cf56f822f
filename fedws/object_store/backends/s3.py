"""``s3://bucket/prefix``: blobs in any store that speaks S3."""

import contextlib
import io
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from hashlib import md5
from typing import TypeVar

from fedws.core.errors import StoreError, UsageError
from fedws.core.registry import register
from fedws.object_store.base import PART, parsed, parts, place
from fedws.object_store.s3_client import Failed, Requests, field
from fedws.object_store.watchdog import Progress, Stopped, bounded

T = TypeVar("T")
_BUCKET = re.compile("[A-Za-z0-9._-]{3,255}")
_PREFIX = re.compile(r"([A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*)?")
_READ = 2**20
"""Bytes that are read at once, at most."""
_BEGUN = 2
"""How often a large blob is begun, since others may end its upload."""
_GONE = ("NoSuchUpload", "NoSuchKey")


class _Body(io.BytesIO):
    """To be sent as a file: bytes would have to be sent whole within the time of one silence, however slow the line."""

    def __init__(self, data: bytes, progress: Progress) -> None:
        super().__init__(data)
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        self._progress.check()
        data = super().read(size)
        self._progress.moved(len(data))
        return data


@register("store", "s3")
class S3Store:
    """See :class:`fedws.object_store.base.Store`."""

    def __init__(self, url: str, patience: float) -> None:
        found = parsed(url)
        prefix = found.path.strip("/")
        if not _BUCKET.fullmatch(found.netloc) or not _PREFIX.fullmatch(prefix):
            raise UsageError(f"{url!r} is no bucket; one looks like s3://bucket/prefix, of letters, digits and ._-")
        self._url, self._bucket, self._prefix = url, found.netloc, f"{prefix}/" if prefix else ""
        self._patience = patience
        self._requests = Requests(url, patience)
        self._client = self._requests.client

    def _bounded(self, work: Callable[[Progress], T], stop: threading.Event | None = None) -> T:
        return bounded(work, self._patience, self._url, stop)

    def check(self) -> None:
        """List, write, read and delete: what a policy must allow. Raises UsageError."""
        try:
            self._bounded(self._try)
        except StoreError as error:
            raise UsageError(str(error)) from None

    def _try(self, progress: Progress) -> None:
        key, body = f"{self._prefix}check-{secrets.token_hex(8)}", b"fedws"
        at = {"Bucket": self._bucket, "Prefix": f"{self._prefix}check-"}
        asked, read = self._requests.asked, bytearray(len(body))
        asked(lambda: self._client.list_objects_v2(**at, MaxKeys=1), progress)
        asked(lambda: self._client.list_multipart_uploads(**at, MaxUploads=1), progress)
        self._send_whole(key, body, progress)
        try:
            self._fill(key, memoryview(read), progress)
        finally:
            self._delete(key, progress)
        if read != body:
            raise StoreError(f"{self._url}: {self._requests.host} does not give back what was stored")

    # ------------------------------------------------------------------ storing

    def put(self, run: str, name: str, body: Sequence[memoryview], *, stop: threading.Event | None = None) -> None:
        """In one request, or a large one in parts, of which those that are there already are not sent again."""
        key = self._prefix + place(run, name)
        self._bounded(lambda progress: self._put(key, body, progress), stop)

    def _put(self, key: str, body: Sequence[memoryview], progress: Progress) -> None:
        size = sum(map(len, body))
        if self._size(key, progress) == size:
            return
        if size <= PART:
            self._send_whole(key, b"".join(body), progress)
            return
        for _ in range(_BEGUN):
            try:
                self._put_parts(key, body, progress)
                return
            except Failed as error:  # another writer of this blob may have completed the upload, or a cleaner ended it
                if error.code != "NoSuchUpload":
                    raise
                if self._size(key, progress) == size:
                    return
        raise StoreError(f"{self._url}: others end the upload of blob {_name(key)} again and again")

    def _send_whole(self, key: str, data: bytes, progress: Progress) -> None:
        send = self._client.put_object
        self._requests.asked(lambda: send(Bucket=self._bucket, Key=key, Body=_Body(data, progress)), progress)

    def _put_parts(self, key: str, body: Sequence[memoryview], progress: Progress) -> None:
        begun = min(((since, upload) for at, since, upload in self._uploads(key, progress) if at == key), default=None)
        at = {"Bucket": self._bucket, "Key": key}
        if begun is None:
            begin = self._client.create_multipart_upload
            at["UploadId"] = self._requests.asked(lambda: field(begin(**at), "UploadId", str), progress)
        else:
            at["UploadId"] = begun[1]
        try:
            there = self._parts(at, progress) if begun else {}
            tags = []
            for number, part in enumerate(parts(body), 1):
                data = b"".join(part)
                tag = _tag(there.get(number), data) or self._send(at, number, data, progress)
                tags.append({"PartNumber": number, "ETag": tag})
            complete = self._client.complete_multipart_upload
            self._requests.asked(lambda: complete(**at, MultipartUpload={"Parts": tags}), progress)
        except Stopped:
            with contextlib.suppress(Exception):  # then it is deleted with the run
                self._client.abort_multipart_upload(**at)
            raise

    def _send(self, at: dict[str, str], number: int, data: bytes, progress: Progress) -> str:
        send = self._client.upload_part

        def sent() -> str:
            return field(send(**at, PartNumber=number, Body=_Body(data, progress)), "ETag", str)

        return self._requests.asked(sent, progress)

    # ------------------------------------------------------------------ reading

    def get(self, run: str, name: str, into: memoryview, *, stop: threading.Event | None = None) -> None:
        """Read in one request, and from where it stopped in another when the connection drops."""
        key = self._prefix + place(run, name)
        self._bounded(lambda progress: self._fill(key, into, progress), stop)

    def _fill(self, key: str, into: memoryview, progress: Progress) -> None:
        have, block = 0, min(_READ, progress.block)

        def read() -> None:
            nonlocal have
            rest = {"Range": f"bytes={have}-"} if have else {}
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **rest)
            with contextlib.closing(answer["Body"]) as body:
                size = have + field(answer, "ContentLength", int)
                if size != len(into):
                    raise StoreError(f"{self._url}: blob {_name(key)} has {size} bytes there and not {len(into)}")
                while have < len(into):
                    progress.check()
                    count = body.readinto(into[have : have + block])
                    have += count
                    progress.moved(count)

        try:
            self._requests.asked(read, progress, lambda: have // PART)
        except Failed as error:
            if error.code not in _GONE:
                raise
            raise StoreError(f"{self._url}: blob {_name(key)} is not there") from None

    # ------------------------------------------------------------------ deleting

    def drop(self, run: str, name: str) -> None:
        """Delete an object."""
        key = self._prefix + place(run, name)
        self._bounded(lambda progress: self._delete(key, progress))

    def clean(self, run: str) -> None:
        """Delete what is under the run's prefix, one by one: not every store takes the request for many."""
        prefix = f"{self._prefix}{place(run)}/"
        self._bounded(lambda progress: self._clean(prefix, progress))

    def _clean(self, prefix: str, progress: Progress) -> None:
        for key, _, upload in self._uploads(prefix, progress):
            at = {"Bucket": self._bucket, "Key": key, "UploadId": upload}
            with self._may_be_gone():
                self._requests.asked(lambda at=at: self._client.abort_multipart_upload(**at), progress)  # type: ignore[misc]
        for key, _ in self._objects(prefix, progress):
            self._delete(key, progress)

    def _delete(self, key: str, progress: Progress) -> None:
        with self._may_be_gone():
            self._requests.asked(lambda: self._client.delete_object(Bucket=self._bucket, Key=key), progress)

    @contextlib.contextmanager
    def _may_be_gone(self) -> Iterator[None]:
        try:
            yield
        except Failed as error:
            if error.code not in _GONE:
                raise

    # ------------------------------------------------------------------ listing
    # What is no run's own is not to be deleted with it, also where a store takes no notice of the prefix.

    def _size(self, key: str, progress: Progress) -> int | None:
        """Of an object; None when there is none. (An answer to HEAD has no body to say what was wrong.)"""
        return next((size for found, size in self._objects(key, progress) if found == key), None)

    def _objects(self, prefix: str, progress: Progress) -> Iterator[tuple[str, int]]:
        """The key and size of each."""
        of = {"Bucket": self._bucket, "Prefix": prefix}
        found = self._requests.listed(
            "list_objects_v2",
            of,
            "Contents",
            lambda each: (field(each, "Key", str), field(each, "Size", int)),
            progress,
        )
        return (each for each in found if each[0].startswith(prefix))

    def _uploads(self, prefix: str, progress: Progress) -> Iterator[tuple[str, float, str]]:
        """The key of each unfinished one, when it began (seconds since 1970), and its own name."""

        def upload(each: object) -> tuple[str, float, str]:
            began = field(each, "Initiated", datetime).timestamp()
            return field(each, "Key", str), began, field(each, "UploadId", str)

        of = {"Bucket": self._bucket, "Prefix": prefix}
        found = self._requests.listed("list_multipart_uploads", of, "Uploads", upload, progress)
        return (each for each in found if each[0].startswith(prefix))

    def _parts(self, at: dict[str, str], progress: Progress) -> dict[int, tuple[int, str]]:
        """The size and tag of each part of an upload, by its number."""

        def part(each: object) -> tuple[int, tuple[int, str]]:
            return field(each, "PartNumber", int), (field(each, "Size", int), field(each, "ETag", str))

        return dict(self._requests.listed("list_parts", at, "Parts", part, progress))


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _tag(part: tuple[int, str] | None, data: bytes) -> str | None:
    """Of a part that the store has, if it holds these bytes; where stores encrypt, that cannot be told."""
    if part is None or part[0] != len(data):
        return None
    return part[1] if part[1].strip('"') == md5(data, usedforsecurity=False).hexdigest() else None
