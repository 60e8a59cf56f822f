"""``s3://bucket/prefix``: blobs in any store that speaks S3, through boto3.

Where it is and who we are come from the usual places of boto3 only: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, the files in
~/.aws, a machine's own role.
"""

import contextlib
import io
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import md5
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fedws.errors import StoreError, UsageError
from fedws.registry import register
from fedws.s3faults import Fault
from fedws.store import PART, parsed, parts, place

T = TypeVar("T")
TRIES = 4
"""How often a request is made that fails in a way which may pass."""
_BUCKET = re.compile("[A-Za-z0-9._-]{3,255}")
_PREFIX = re.compile(r"([A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*)?")
_READ = 2**20
"""Bytes that are read at once."""
_GONE = ("NoSuchUpload", "NoSuchKey")


class _Failed(StoreError):
    """A request failed for good."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


@register("store", "s3")
class S3Store:
    """See :class:`fedws.store.Store`."""

    def __init__(self, url: str, patience: float) -> None:
        found = parsed(url)
        prefix = found.path.strip("/")
        if not _BUCKET.fullmatch(found.netloc) or not _PREFIX.fullmatch(prefix):
            raise UsageError(f"{url!r} is no bucket; one looks like s3://bucket/prefix, of letters, digits and ._-")
        self._url, self._bucket, self._prefix = url, found.netloc, f"{prefix}/" if prefix else ""
        self._patience = patience
        self._client, self._host = self._connected()

    def _connected(self) -> tuple[Any, str]:
        """A client, and where its store is. It makes each request once: what to make again is decided here."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError
            from botocore.parsers import ResponseParserError
            from urllib3.exceptions import HTTPError  # what comes while a body is read
        except ImportError:
            raise UsageError("s3:// needs boto3: pip install 'fedws[s3]'") from None
        self._errors = (BotoCoreError, ClientError, ResponseParserError, KeyError, HTTPError, OSError)
        silence = self._patience / (TRIES + 1)  # so that all tries and the pauses between them are within it
        config = Config(
            connect_timeout=silence,
            read_timeout=silence,
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",  # many stores do not know the newer checksums
            response_checksum_validation="when_required",
        )

        def whole(operation_model: Any, response_dict: Any, **_: Any) -> None:
            """An answer that was cut would pass for a shorter one, as a list of nothing."""
            body, size = response_dict["body"], response_dict["headers"].get("content-length")
            if size and isinstance(body, bytes) and len(body) < int(size) and operation_model.http["method"] != "HEAD":
                raise IncompleteReadError(actual_bytes=len(body), expected_bytes=size)

        try:
            client = boto3.Session().client("s3", config=config)
            endpoint = urlsplit(client.meta.endpoint_url)
            host = f"{endpoint.hostname}:{endpoint.port}" if endpoint.port else str(endpoint.hostname)
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"{self._url}: {Fault(_code(error)).line('')}") from None
        client.meta.events.register("before-parse.s3", whole)
        return client, host

    def check(self) -> None:
        """List, write, read and delete: what a policy must allow. Raises UsageError."""
        key, body = f"{self._prefix}check-{secrets.token_hex(8)}", b"fedws"
        at = {"Bucket": self._bucket, "Prefix": f"{self._prefix}check-"}
        read = bytearray(len(body))
        try:
            self._asked(lambda: self._client.list_objects_v2(**at, MaxKeys=1))
            self._asked(lambda: self._client.list_multipart_uploads(**at, MaxUploads=1))
            self._asked(lambda: self._client.put_object(Bucket=self._bucket, Key=key, Body=io.BytesIO(body)))
            try:
                self._fill(key, memoryview(read))
            finally:
                self._delete(key)
        except StoreError as error:
            raise UsageError(str(error)) from None
        if read != body:
            raise UsageError(f"{self._url}: {self._host} does not give back what was stored")

    # ------------------------------------------------------------------ storing

    def put(self, run: str, name: str, body: Sequence[memoryview]) -> None:
        """In one request, or a large one in parts, of which those that are there already are not sent again."""
        key, size = self._prefix + place(run, name), sum(map(len, body))
        if self._size(key) == size:
            return
        if size <= PART:
            data = b"".join(body)
            self._asked(lambda: self._client.put_object(Bucket=self._bucket, Key=key, Body=io.BytesIO(data)))
            return
        for _ in range(TRIES):
            try:
                self._put_parts(key, body)
                return
            except _Failed as error:  # another writer of this blob may have completed the upload, or a cleaner ended it
                if error.code != "NoSuchUpload":
                    raise
                if self._size(key) == size:
                    return
        raise StoreError(f"{self._url}: others end the upload of blob {name} again and again")

    def _put_parts(self, key: str, body: Sequence[memoryview]) -> None:
        begun = [found for found in self._uploads(key) if found["Key"] == key]
        if begun:
            upload = min(begun, key=lambda found: (found["Initiated"], found["UploadId"]))["UploadId"]
        else:
            begin = self._client.create_multipart_upload
            upload = self._asked(lambda: begin(Bucket=self._bucket, Key=key)["UploadId"])
        at = {"Bucket": self._bucket, "Key": key, "UploadId": upload}
        there = {part["PartNumber"]: part for part in self._listed("list_parts", "Parts", at)} if begun else {}
        tags = []
        for number, part in enumerate(parts(body), 1):
            data = b"".join(part)
            tag = _tag(there.get(number), data) or self._send(at, number, data)
            tags.append({"PartNumber": number, "ETag": tag})
        self._asked(lambda: self._client.complete_multipart_upload(**at, MultipartUpload={"Parts": tags}))

    def _send(self, at: dict[str, str], number: int, data: bytes) -> str:
        """As a file: bytes would have to be sent whole within the time of one silence, however slow the line."""
        upload = self._client.upload_part
        tag: str = self._asked(lambda: upload(**at, PartNumber=number, Body=io.BytesIO(data))["ETag"])
        return tag

    # ------------------------------------------------------------------ reading

    def get(self, run: str, name: str, into: memoryview) -> None:
        """Read in one request, and from where it stopped in another when the connection drops."""
        self._fill(self._prefix + place(run, name), into)

    def _fill(self, key: str, into: memoryview) -> None:
        have = 0

        def read() -> None:
            nonlocal have
            rest = {"Range": f"bytes={have}-"} if have else {}
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **rest)
            with contextlib.closing(answer["Body"]) as body:
                size = have + answer.get("ContentLength", 0)
                if size != len(into):
                    raise StoreError(f"{self._url}: blob {_name(key)} has {size} bytes there and not {len(into)}")
                while have < len(into):
                    have += body.readinto(into[have : have + _READ])

        try:
            self._asked(read, lambda: have // PART)
        except _Failed as error:
            if error.code not in _GONE:
                raise
            raise StoreError(f"{self._url}: blob {_name(key)} is not there") from None

    # ------------------------------------------------------------------ deleting

    def drop(self, run: str, name: str) -> None:
        """Delete an object."""
        self._delete(self._prefix + place(run, name))

    def clean(self, run: str) -> None:
        """Delete what is under the run's prefix, one by one: not every store takes the request for many."""
        prefix = f"{self._prefix}{place(run)}/"
        for upload in self._uploads(prefix):
            at = {"Bucket": self._bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
            with self._may_be_gone():
                self._asked(lambda at=at: self._client.abort_multipart_upload(**at))  # type: ignore[misc]
        for found in self._under("list_objects_v2", "Contents", prefix):
            self._delete(found["Key"])

    def _delete(self, key: str) -> None:
        with self._may_be_gone():
            self._asked(lambda: self._client.delete_object(Bucket=self._bucket, Key=key))

    @contextlib.contextmanager
    def _may_be_gone(self) -> Iterator[None]:
        try:
            yield
        except _Failed as error:
            if error.code not in _GONE:
                raise

    # ------------------------------------------------------------------ asking

    def _size(self, key: str) -> int | None:
        """Of an object; None when there is none. (An answer to HEAD has no body to say what was wrong.)"""
        found = self._under("list_objects_v2", "Contents", key)
        return next((each["Size"] for each in found if each["Key"] == key), None)

    def _uploads(self, prefix: str) -> list[dict[str, Any]]:
        return self._under("list_multipart_uploads", "Uploads", prefix)

    def _under(self, operation: str, key: str, prefix: str) -> list[dict[str, Any]]:
        """Also where a store takes no notice of the prefix: what is not a run's own is not to be deleted with it."""
        found = self._listed(operation, key, {"Bucket": self._bucket, "Prefix": prefix})
        return [each for each in found if each["Key"].startswith(prefix)]

    def _listed(self, operation: str, key: str, at: dict[str, str]) -> list[dict[str, Any]]:
        pages = self._client.get_paginator(operation)
        return self._asked(lambda: [each for page in pages.paginate(**at) for each in page.get(key, ())])

    def _asked(self, request: Callable[[], T], gained: Callable[[], int] = int) -> T:
        """Make a request, again while it fails in a way that may pass, within the time of our patience.

        Both bounds begin anew when ``gained`` has grown. Raises StoreError.
        """
        seen = tries = 0
        end = time.monotonic() + self._patience
        while True:
            try:
                return request()
            except self._errors as error:
                fault = _fault(error)
            if gained() > seen:
                seen, tries, end = gained(), 0, time.monotonic() + self._patience
            pause = min(0.5, self._patience / 40) * 2**tries
            tries += 1
            if not fault.passing or tries == TRIES or time.monotonic() + pause > end:
                often = f", {tries} times in a row" if tries > 1 else ""
                raise _Failed(f"{self._url}: {fault.line(self._host)}{often}", fault.code)
            time.sleep(pause)


def _name(key: str) -> str:
    return key.rpartition("/")[2]


def _tag(part: dict[str, Any] | None, data: bytes) -> str | None:
    """Of a part that the store has, if it holds these bytes; where stores encrypt, that cannot be told."""
    if part is None or part["Size"] != len(data):
        return None
    tag: str = part["ETag"]
    return tag if tag.strip('"') == md5(data, usedforsecurity=False).hexdigest() else None


def _code(error: Exception) -> str:
    return "CertificateError" if "certificate verify failed" in str(error).lower() else type(error).__name__


def _fault(error: Exception) -> Fault:
    """What boto3, or what it stands on, says."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return Fault(_code(error))
    about = answer.get("ResponseMetadata", {})
    skew = None
    with contextlib.suppress(KeyError, ValueError, TypeError):
        skew = (datetime.now(UTC) - parsedate_to_datetime(about["HTTPHeaders"]["date"])).total_seconds()
    code = str(answer.get("Error", {}).get("Code", ""))
    return Fault(code, about.get("HTTPStatusCode", 0), getattr(error, "operation_name", ""), skew)
