"""A client of S3 stores, which retries requests and validates every response.

This is the only module that uses boto3. The endpoint and the credentials come only from the usual sources of boto3:
AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, the files in ~/.aws, and the role of the machine.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fedws.core.errors import StoreError, UsageError
from fedws.object_store.s3_errors import S3Address, S3ErrorInfo
from fedws.object_store.watchdog import Progress

T = TypeVar("T")
MAX_ATTEMPTS = 4
"""Maximum number of attempts of a request whose errors are retryable."""
MAX_PAGES = 1000
"""Maximum number of pages of one listing. Most stores return 1,000 results in each page."""
_PAGE_TOKENS = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_multipart_uploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
    "list_parts": {"PartNumberMarker": "NextPartNumberMarker"},
}
"""Arguments of a request for the next page, each with the field of the previous page that contains its value."""
_MALFORMED_RESPONSE_ERRORS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""Exceptions that a response raises if a field is missing or has the wrong type."""


class S3RequestFailed(StoreError):
    """A request that failed and is not retried any more."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class S3Client:
    """A client of one store with URL ``url``, which is part of every error message.

    The constructor raises UsageError if boto3 is not installed or cannot be set up.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self._url, self._timeout = url, timeout
        self.client, self._address = self._connect()
        self.host = self._address.host

    def _connect(self) -> tuple[Any, S3Address]:
        """Return a client of boto3 and the address of its store.

        The client makes each request only once, because ``call`` decides about retries.
        """
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError
            from botocore.parsers import ResponseParserError
            from urllib3.exceptions import HTTPError  # raised while a body is read
        except ImportError:
            raise UsageError("s3:// requires boto3; pip install 'fedws[s3]'") from None
        self._errors = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)
        # All attempts and the pauses between them must fit into the timeout.
        attempt_timeout = self._timeout / (MAX_ATTEMPTS + 2)
        config = Config(
            connect_timeout=attempt_timeout,
            read_timeout=attempt_timeout,
            retries={"total_max_attempts": 1},
            request_checksum_calculation="when_required",  # many stores do not support the newer checksums
            response_checksum_validation="when_required",
        )

        def reject_truncated(operation_model: Any, response_dict: Any, **_: Any) -> None:
            """Raise IncompleteReadError for a truncated response, which may look like a complete shorter one."""
            body, size = response_dict["body"], response_dict["headers"].get("content-length")
            if size and isinstance(body, bytes) and len(body) < int(size) and operation_model.http["method"] != "HEAD":
                raise IncompleteReadError(actual_bytes=len(body), expected_bytes=size)

        url = urlsplit(self._url)
        address = S3Address(url.netloc, url.path.strip("/"))
        try:
            client = boto3.Session().client("s3", config=config)
            endpoint = urlsplit(client.meta.endpoint_url)
            host = f"{endpoint.hostname}:{endpoint.port}" if endpoint.port else str(endpoint.hostname)
        except (BotoCoreError, ValueError) as error:
            raise UsageError(f"{self._url}: {S3ErrorInfo(_get_error_code(error)).describe(address)}") from None
        client.meta.events.register("before-parse.s3", reject_truncated)
        return client, replace(address, host=host, endpoint_path=endpoint.path.strip("/"))

    def retry_pause(self, attempt: int) -> float:
        """Return the seconds to wait after attempt ``attempt``, counted from 0. Each pause doubles."""
        return min(0.5, self._timeout / 40) * 2.0**attempt

    def call(self, request: Callable[[], T], progress: Progress, count_progress: Callable[[], int] = int) -> T:
        """Return the result of ``request``, which makes a request and reads its response.

        Retry while its errors are retryable. The number and the total time of the attempts are bounded. Both bounds
        start again when the value of ``count_progress`` has increased. Raise StoreError if the request fails.
        """
        result = self._call_with_retries(request, progress, count_progress)
        progress.mark_progress()
        return result

    def list_results(
        self, operation: str, arguments: dict[str, str], key: str, parse_result: Callable[[Any], T], progress: Progress
    ) -> Iterator[T]:
        """Yield the results under ``key`` from all pages of a listing, each parsed by ``parse_result``.

        Only the end of the listing counts as progress, because a store could send pages without end. Raise StoreError
        if a request fails, or after ``MAX_PAGES`` pages.
        """
        page_tokens: dict[str, Any] | None = {}

        def fetch_page() -> tuple[list[T], dict[str, Any] | None]:
            response = getattr(self.client, operation)(**arguments, **(page_tokens or {}))
            results = [parse_result(each) for each in response.get(key, ())]
            if not response.get("IsTruncated"):
                return results, None
            return results, {argument: response[field] for argument, field in _PAGE_TOKENS[operation].items()}

        for _ in range(MAX_PAGES):
            results, page_tokens = self._call_with_retries(fetch_page, progress)
            yield from results
            if page_tokens is None:
                progress.mark_progress()
                return
        raise StoreError(f"{self._url}: listing at {self.host} exceeds the limit of {MAX_PAGES:,} pages")

    def _call_with_retries(
        self, request: Callable[[], T], progress: Progress, count_progress: Callable[[], int] = int
    ) -> T:
        last_count = attempts = 0
        end = time.monotonic() + self._timeout
        while True:
            progress.raise_if_cancelled()
            try:
                return request()
            except self._errors as error:
                info = _parse_error(error)
            except _MALFORMED_RESPONSE_ERRORS:
                info = S3ErrorInfo("ResponseParserError")
            progress.raise_if_cancelled()
            if count_progress() > last_count:
                last_count, attempts, end = count_progress(), 0, time.monotonic() + self._timeout
            pause = self.retry_pause(attempts)
            attempts += 1
            if not info.is_retryable or attempts == MAX_ATTEMPTS or time.monotonic() + pause > end:
                suffix = f" in {attempts} consecutive attempts" if attempts > 1 else ""
                raise S3RequestFailed(f"{self._url}: {info.describe(self._address)}{suffix}", info.code)
            progress.wait(pause)


def get_field(response: Any, name: str, expected_type: type[T]) -> T:
    """Return the field ``name`` of a response.

    Raise KeyError if it is missing, or TypeError if it has another type. ``S3Client.call`` converts both into a
    StoreError.
    """
    value = response[name]
    if not isinstance(value, expected_type):
        raise TypeError(f"{name} is not of type {expected_type.__name__}")
    return value


def _get_error_code(error: Exception) -> str:
    return "CertificateError" if "certificate verify failed" in str(error).lower() else type(error).__name__


def _parse_error(error: Exception) -> S3ErrorInfo:
    """Return the info of an error that was raised by boto3 or by one of the libraries below it."""
    response = getattr(error, "response", None)
    if not isinstance(response, dict):
        return S3ErrorInfo(_get_error_code(error))
    metadata = response.get("ResponseMetadata", {})
    skew = None
    with contextlib.suppress(KeyError, ValueError, TypeError):
        skew = (datetime.now(UTC) - parsedate_to_datetime(metadata["HTTPHeaders"]["date"])).total_seconds()
    code = str(response.get("Error", {}).get("Code", ""))
    return S3ErrorInfo(code, metadata.get("HTTPStatusCode", 0), getattr(error, "operation_name", ""), skew)
