"""The store ``s3://BUCKET/PREFIX``, which keeps blobs in any store with the S3 protocol."""

import contextlib
import io
import re
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from hashlib import md5
from typing import TypeVar

from fedws.core.errors import BlobMissing, StoreError, UsageError
from fedws.core.registry import register
from fedws.object_store.base import PART_BYTES, build_blob_path, parse_store_url, split_into_parts
from fedws.object_store.s3_client import S3Client, S3RequestFailed, get_field
from fedws.object_store.watchdog import Progress, StoreCancelled, run_with_watchdog

T = TypeVar("T")
_BUCKET_PATTERN = re.compile("[A-Za-z0-9._-]{3,255}")
_PREFIX_PATTERN = re.compile(r"([A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*)?")
_MAX_READ_BYTES = 2**20
"""Maximum number of bytes of one read."""
_MAX_UPLOAD_STARTS = 3
"""Maximum number of times that the upload of a large blob starts, when other writers end it."""
_NOT_FOUND_CODES = ("NoSuchUpload", "NoSuchKey")


class _UploadBody(io.BytesIO):
    """A request body that is sent as a file.

    A body of plain bytes would have to be sent completely within one read timeout, however slow the connection is.
    """

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
    """A store that keeps blobs in a bucket. See ``fedws.object_store.base.Store``."""

    def __init__(self, url: str, timeout: float) -> None:
        parts = parse_store_url(url)
        prefix = parts.path.strip("/")
        if not _BUCKET_PATTERN.fullmatch(parts.netloc) or not _PREFIX_PATTERN.fullmatch(prefix):
            raise UsageError(
                f"{url!r} is not a valid URL of a bucket; use the form s3://BUCKET/PREFIX with letters, digits and ._-"
            )
        self._url, self._bucket, self._prefix = url, parts.netloc, f"{prefix}/" if prefix else ""
        self._timeout = timeout
        self._s3 = S3Client(url, timeout)
        self._client = self._s3.client

    def _run(self, work: Callable[[Progress], T], stop: threading.Event | None = None) -> T:
        return run_with_watchdog(work, self._timeout, self._url, stop)

    def check_access(self) -> None:
        """Try to list, write, read and delete, which the policy of the bucket must allow.

        Raise UsageError if one of them fails.
        """
        try:
            self._run(self._check_operations)
        except StoreError as error:
            raise UsageError(str(error)) from None

    def _check_operations(self, progress: Progress) -> None:
        key, body = f"{self._prefix}check-{secrets.token_hex(8)}", b"fedws"
        arguments = {"Bucket": self._bucket, "Prefix": f"{self._prefix}check-"}
        call, buffer = self._s3.call, bytearray(len(body))
        call(lambda: self._client.list_objects_v2(**arguments, MaxKeys=1), progress)
        call(lambda: self._client.list_multipart_uploads(**arguments, MaxUploads=1), progress)
        self._put_object(key, body, progress)
        try:
            self._read_into(key, memoryview(buffer), progress)
        finally:
            self._delete_object(key, progress)
        if buffer != body:
            raise StoreError(f"{self._url}: {self._s3.host} did not return the stored data")

    # ------------------------------------------------------------------ uploads

    def put(self, run: str, name: str, body: Sequence[memoryview], *, stop: threading.Event | None = None) -> None:
        """Upload a blob in one request, or a large blob in parts. Parts that the store already has are skipped."""
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
            # Either another writer of this blob completed the upload, and the object may not be listed yet, or another
            # process aborted the upload during its cleanup.
            for pause in (0.0, self._s3.retry_pause(attempt)):
                progress.wait(pause)
                if self._get_size(key, progress) == size:
                    return
        raise StoreError(
            f"{self._url}: other processes ended {_MAX_UPLOAD_STARTS} uploads of blob {_get_blob_name(key)}"
        )

    def _put_object(self, key: str, data: bytes, progress: Progress) -> None:
        send = self._client.put_object
        self._s3.call(lambda: send(Bucket=self._bucket, Key=key, Body=_UploadBody(data, progress)), progress)

    def _upload_parts(self, key: str, body: Sequence[memoryview], progress: Progress) -> None:
        oldest = min(
            ((start, upload_id) for name, start, upload_id in self._list_uploads(key, progress) if name == key),
            default=None,
        )
        upload = {"Bucket": self._bucket, "Key": key}
        if oldest is None:
            create = self._client.create_multipart_upload
            upload["UploadId"] = self._s3.call(lambda: get_field(create(**upload), "UploadId", str), progress)
        else:
            upload["UploadId"] = oldest[1]
        try:
            stored_parts = self._list_parts(upload, progress) if oldest else {}
            tags = []
            for number, part in enumerate(split_into_parts(body), 1):
                data = b"".join(part)
                tag = _get_matching_tag(stored_parts.get(number), data)
                tag = tag or self._upload_part(upload, number, data, progress)
                tags.append({"PartNumber": number, "ETag": tag})
            complete = self._client.complete_multipart_upload
            self._s3.call(lambda: complete(**upload, MultipartUpload={"Parts": tags}), progress)
        except StoreCancelled:
            with contextlib.suppress(Exception):  # the upload is then deleted with the run
                self._client.abort_multipart_upload(**upload)
            raise

    def _upload_part(self, upload: dict[str, str], number: int, data: bytes, progress: Progress) -> str:
        send = self._client.upload_part

        def request() -> str:
            return get_field(send(**upload, PartNumber=number, Body=_UploadBody(data, progress)), "ETag", str)

        return self._s3.call(request, progress)

    # ------------------------------------------------------------------ downloads

    def get(self, run: str, name: str, buffer: memoryview, *, stop: threading.Event | None = None) -> None:
        """Download a blob in one request. If the connection drops, another request continues from there."""
        key = self._prefix + build_blob_path(run, name)
        self._run(lambda progress: self._read_into(key, buffer, progress), stop)

    def _read_into(self, key: str, buffer: memoryview, progress: Progress) -> None:
        offset, block = 0, min(_MAX_READ_BYTES, progress.block_bytes)

        def read() -> None:
            nonlocal offset
            byte_range = {"Range": f"bytes={offset}-"} if offset else {}
            response = self._client.get_object(Bucket=self._bucket, Key=key, **byte_range)
            with contextlib.closing(response["Body"]) as body:
                size = offset + get_field(response, "ContentLength", int)
                if size != len(buffer):
                    raise StoreError(
                        f"{self._url}: blob {_get_blob_name(key)} has {size} bytes, expected {len(buffer)}"
                    )
                while offset < len(buffer):
                    progress.raise_if_cancelled()
                    count = body.readinto(buffer[offset : offset + block])
                    offset += count
                    progress.add_bytes(count)

        try:
            self._s3.call(read, progress, lambda: offset // PART_BYTES)
        except S3RequestFailed as error:
            if error.code not in _NOT_FOUND_CODES:
                raise
            raise BlobMissing(f"{self._url}: blob {_get_blob_name(key)} not found") from None

    # ------------------------------------------------------------------ deletion

    def delete(self, run: str, name: str) -> None:
        """Delete an object, if it exists."""
        key = self._prefix + build_blob_path(run, name)
        self._run(lambda progress: self._delete_object(key, progress))

    def delete_run(self, run: str) -> None:
        """Delete everything below the prefix of the run.

        Each object is deleted with its own request, because not every store supports the deletion of many objects.
        """
        prefix = f"{self._prefix}{build_blob_path(run)}/"
        self._run(lambda progress: self._delete_prefix(prefix, progress))

    def _delete_prefix(self, prefix: str, progress: Progress) -> None:
        abort = self._client.abort_multipart_upload
        for key, _, upload_id in self._list_uploads(prefix, progress):
            upload = {"Bucket": self._bucket, "Key": key, "UploadId": upload_id}
            with self._ignore_not_found():
                self._s3.call(lambda upload=upload: abort(**upload), progress)  # type: ignore[misc]
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

    # ------------------------------------------------------------------ listings
    # Results without the prefix are skipped: some stores ignore the prefix, and objects of others must not be deleted.

    def _get_size(self, key: str, progress: Progress) -> int | None:
        """Return the size of an object in bytes, or None if it does not exist.

        The size comes from a listing, because the response to a HEAD request has no body that describes an error.
        """
        return next((size for found, size in self._list_objects(key, progress) if found == key), None)

    def _list_objects(self, prefix: str, progress: Progress) -> Iterator[tuple[str, int]]:
        """Yield the key and the size of each object with the prefix."""
        arguments = {"Bucket": self._bucket, "Prefix": prefix}
        objects = self._s3.list_results(
            "list_objects_v2",
            arguments,
            "Contents",
            lambda each: (get_field(each, "Key", str), get_field(each, "Size", int)),
            progress,
        )
        return (each for each in objects if each[0].startswith(prefix))

    def _list_uploads(self, prefix: str, progress: Progress) -> Iterator[tuple[str, float, str]]:
        """Yield the key, the start (seconds since 1970) and the id of each unfinished upload with the prefix."""

        def parse_upload(each: object) -> tuple[str, float, str]:
            start = get_field(each, "Initiated", datetime).timestamp()
            return get_field(each, "Key", str), start, get_field(each, "UploadId", str)

        arguments = {"Bucket": self._bucket, "Prefix": prefix}
        uploads = self._s3.list_results("list_multipart_uploads", arguments, "Uploads", parse_upload, progress)
        return (each for each in uploads if each[0].startswith(prefix))

    def _list_parts(self, upload: dict[str, str], progress: Progress) -> dict[int, tuple[int, str]]:
        """Return the size and the tag of each part of an upload, by part number."""

        def parse_part(each: object) -> tuple[int, tuple[int, str]]:
            return get_field(each, "PartNumber", int), (get_field(each, "Size", int), get_field(each, "ETag", str))

        return dict(self._s3.list_results("list_parts", upload, "Parts", parse_part, progress))


def _get_blob_name(key: str) -> str:
    return key.rpartition("/")[2]


def _get_matching_tag(part: tuple[int, str] | None, data: bytes) -> str | None:
    """Return the tag of a stored part if the part contains ``data``, or None.

    The tag of an encrypted part is not the MD5 of its bytes, so such a part never matches.
    """
    if part is None or part[0] != len(data):
        return None
    return part[1] if part[1].strip('"') == md5(data, usedforsecurity=False).hexdigest() else None
