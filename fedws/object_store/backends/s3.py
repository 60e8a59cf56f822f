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
from fedws.object_store.base import PART_BYTES, build_blob_path, parse_store_url, split_into_parts
from fedws.object_store.s3_client import S3Client, S3RequestFailed, get_field
from fedws.object_store.watchdog import Progress, StoreCancelled, run_with_watchdog

T = TypeVar("T")
_BUCKET_PATTERN = re.compile("[A-Za-z0-9._-]{3,255}")
_PREFIX_PATTERN = re.compile(r"([A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*)?")
_MAX_READ_BYTES = 2**20
"""Bytes that are read at once, at most."""
_MAX_UPLOAD_STARTS = 3
"""Attempts to upload a large blob whose upload other writers end."""
_NOT_FOUND_CODES = ("NoSuchUpload", "NoSuchKey")


class _UploadBody(io.BytesIO):
    """To be sent as a file: bytes would have to be sent whole within one read timeout, however slow the line."""

    def __init__(self, data: bytes, progress: Progress) -> None:
        super().__init__(data)
        self._progress = progress

    def read(self, size: int | None = -1, /) -> bytes:
        self._progress.raise_if_cancelled()
        data = super().read(size)
        self._progress.add_bytes(len(data))
        return data


@register("store", "s3")
class S3Store:
    """See :class:`fedws.object_store.base.Store`."""

    def __init__(self, url: str, timeout: float) -> None:
        found = parse_store_url(url)
        prefix = found.path.strip("/")
        if not _BUCKET_PATTERN.fullmatch(found.netloc) or not _PREFIX_PATTERN.fullmatch(prefix):
            raise UsageError(f"{url!r} is no bucket; one looks like s3://bucket/prefix, of letters, digits and ._-")
        self._url, self._bucket, self._prefix = url, found.netloc, f"{prefix}/" if prefix else ""
        self._timeout = timeout
        self._s3 = S3Client(url, timeout)
        self._client = self._s3.client

    def _run(self, work: Callable[[Progress], T], stop: threading.Event | None = None) -> T:
        return run_with_watchdog(work, self._timeout, self._url, stop)

    def check_access(self) -> None:
        """List, write, read and delete: what a policy must allow. Raises UsageError."""
        try:
            self._run(self._check_operations)
        except StoreError as error:
            raise UsageError(str(error)) from None

    def _check_operations(self, progress: Progress) -> None:
        key, body = f"{self._prefix}check-{secrets.token_hex(8)}", b"fedws"
        at = {"Bucket": self._bucket, "Prefix": f"{self._prefix}check-"}
        asked, read = self._s3.call, bytearray(len(body))
        asked(lambda: self._client.list_objects_v2(**at, MaxKeys=1), progress)
        asked(lambda: self._client.list_multipart_uploads(**at, MaxUploads=1), progress)
        self._put_object(key, body, progress)
        try:
            self._read_into(key, memoryview(read), progress)
        finally:
            self._delete_object(key, progress)
        if read != body:
            raise StoreError(f"{self._url}: {self._s3.host} does not give back what was stored")

    # ------------------------------------------------------------------ storing

    def put(self, run: str, name: str, body: Sequence[memoryview], *, stop: threading.Event | None = None) -> None:
        """In one request, or a large one in parts, of which those that are there already are not sent again."""
        key = self._prefix + build_blob_path(run, name)
        self._run(lambda progress: self._put(key, body, progress), stop)

    def _put(self, key: str, body: Sequence[memoryview], progress: Progress) -> None:
        size = sum(map(len, body))
        if self._get_size(key, progress) == size:
            return
        if size <= PART_BYTES:
            self._put_object(key, b"".join(body), progress)
            return
        for attempt in range(_MAX_UPLOAD_STARTS):
            try:
                self._upload_parts(key, body, progress)
                return
            except S3RequestFailed as error:
                if error.code != "NoSuchUpload":
                    raise
            # Another writer of this blob completed the upload, maybe of an object that is not listed yet, or a cleaner
            # ended it.
            for pause in (0.0, self._s3.retry_pause(attempt)):
                progress.wait(pause)
                if self._get_size(key, progress) == size:
                    return
        raise StoreError(f"{self._url}: others end the upload of blob {_get_blob_name(key)} again and again")

    def _put_object(self, key: str, data: bytes, progress: Progress) -> None:
        send = self._client.put_object
        self._s3.call(lambda: send(Bucket=self._bucket, Key=key, Body=_UploadBody(data, progress)), progress)

    def _upload_parts(self, key: str, body: Sequence[memoryview], progress: Progress) -> None:
        begun = min(
            ((since, upload) for at, since, upload in self._list_uploads(key, progress) if at == key), default=None
        )
        at = {"Bucket": self._bucket, "Key": key}
        if begun is None:
            begin = self._client.create_multipart_upload
            at["UploadId"] = self._s3.call(lambda: get_field(begin(**at), "UploadId", str), progress)
        else:
            at["UploadId"] = begun[1]
        try:
            there = self._list_parts(at, progress) if begun else {}
            tags = []
            for number, part in enumerate(split_into_parts(body), 1):
                data = b"".join(part)
                tag = _get_matching_tag(there.get(number), data) or self._upload_part(at, number, data, progress)
                tags.append({"PartNumber": number, "ETag": tag})
            complete = self._client.complete_multipart_upload
            self._s3.call(lambda: complete(**at, MultipartUpload={"Parts": tags}), progress)
        except StoreCancelled:
            with contextlib.suppress(Exception):  # then it is deleted with the run
                self._client.abort_multipart_upload(**at)
            raise

    def _upload_part(self, upload: dict[str, str], number: int, data: bytes, progress: Progress) -> str:
        send = self._client.upload_part

        def sent() -> str:
            return get_field(send(**upload, PartNumber=number, Body=_UploadBody(data, progress)), "ETag", str)

        return self._s3.call(sent, progress)

    # ------------------------------------------------------------------ reading

    def get(self, run: str, name: str, buffer: memoryview, *, stop: threading.Event | None = None) -> None:
        """Read in one request, and from where it stopped in another when the connection drops."""
        key = self._prefix + build_blob_path(run, name)
        self._run(lambda progress: self._read_into(key, buffer, progress), stop)

    def _read_into(self, key: str, buffer: memoryview, progress: Progress) -> None:
        have, block = 0, min(_MAX_READ_BYTES, progress.block_bytes)

        def read() -> None:
            nonlocal have
            rest = {"Range": f"bytes={have}-"} if have else {}
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **rest)
            with contextlib.closing(answer["Body"]) as body:
                size = have + get_field(answer, "ContentLength", int)
                if size != len(buffer):
                    raise StoreError(
                        f"{self._url}: blob {_get_blob_name(key)} has {size} bytes there and not {len(buffer)}"
                    )
                while have < len(buffer):
                    progress.raise_if_cancelled()
                    count = body.readinto(buffer[have : have + block])
                    have += count
                    progress.add_bytes(count)

        try:
            self._s3.call(read, progress, lambda: have // PART_BYTES)
        except S3RequestFailed as error:
            if error.code not in _NOT_FOUND_CODES:
                raise
            raise StoreError(f"{self._url}: blob {_get_blob_name(key)} is not there") from None

    # ------------------------------------------------------------------ deleting

    def delete(self, run: str, name: str) -> None:
        """Delete an object."""
        key = self._prefix + build_blob_path(run, name)
        self._run(lambda progress: self._delete_object(key, progress))

    def delete_run(self, run: str) -> None:
        """Delete what is under the run's prefix, one by one: not every store takes the request for many."""
        prefix = f"{self._prefix}{build_blob_path(run)}/"
        self._run(lambda progress: self._delete_prefix(prefix, progress))

    def _delete_prefix(self, prefix: str, progress: Progress) -> None:
        for key, _, upload in self._list_uploads(prefix, progress):
            at = {"Bucket": self._bucket, "Key": key, "UploadId": upload}
            with self._ignore_not_found():
                self._s3.call(lambda at=at: self._client.abort_multipart_upload(**at), progress)  # type: ignore[misc]
        for key, _ in self._list_objects(prefix, progress):
            self._delete_object(key, progress)

    def _delete_object(self, key: str, progress: Progress) -> None:
        with self._ignore_not_found():
            self._s3.call(lambda: self._client.delete_object(Bucket=self._bucket, Key=key), progress)

    @contextlib.contextmanager
    def _ignore_not_found(self) -> Iterator[None]:
        try:
            yield
        except S3RequestFailed as error:
            if error.code not in _NOT_FOUND_CODES:
                raise

    # ------------------------------------------------------------------ listing
    # What is no run's own is not to be deleted with it, also where a store takes no notice of the prefix.

    def _get_size(self, key: str, progress: Progress) -> int | None:
        """Of an object; None when there is none. (An answer to HEAD has no body to say what was wrong.)"""
        return next((size for found, size in self._list_objects(key, progress) if found == key), None)

    def _list_objects(self, prefix: str, progress: Progress) -> Iterator[tuple[str, int]]:
        """The key and size of each."""
        of = {"Bucket": self._bucket, "Prefix": prefix}
        found = self._s3.list_results(
            "list_objects_v2",
            of,
            "Contents",
            lambda each: (get_field(each, "Key", str), get_field(each, "Size", int)),
            progress,
        )
        return (each for each in found if each[0].startswith(prefix))

    def _list_uploads(self, prefix: str, progress: Progress) -> Iterator[tuple[str, float, str]]:
        """The key of each unfinished one, when it began (seconds since 1970), and its own name."""

        def upload(each: object) -> tuple[str, float, str]:
            began = get_field(each, "Initiated", datetime).timestamp()
            return get_field(each, "Key", str), began, get_field(each, "UploadId", str)

        of = {"Bucket": self._bucket, "Prefix": prefix}
        found = self._s3.list_results("list_multipart_uploads", of, "Uploads", upload, progress)
        return (each for each in found if each[0].startswith(prefix))

    def _list_parts(self, upload: dict[str, str], progress: Progress) -> dict[int, tuple[int, str]]:
        """The size and tag of each part of an upload, by its number."""

        def part(each: object) -> tuple[int, tuple[int, str]]:
            return get_field(each, "PartNumber", int), (get_field(each, "Size", int), get_field(each, "ETag", str))

        return dict(self._s3.list_results("list_parts", upload, "Parts", part, progress))


def _get_blob_name(key: str) -> str:
    return key.rpartition("/")[2]


def _get_matching_tag(part: tuple[int, str] | None, data: bytes) -> str | None:
    """Of a part that the store has, if it holds these bytes; where stores encrypt, that cannot be told."""
    if part is None or part[0] != len(data):
        return None
    return part[1] if part[1].strip('"') == md5(data, usedforsecurity=False).hexdigest() else None
