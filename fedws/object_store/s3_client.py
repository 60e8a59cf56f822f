"""The requests to an S3 store: made again where that may help, with answers in which nothing is taken on trust.

The one file that knows boto3. Where the store is and who we are come from the usual places of boto3 only:
AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, the files in ~/.aws, a machine's own role.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fedws.core.errors import StoreError, UsageError
from fedws.object_store.s3_errors import S3ErrorInfo
from fedws.object_store.watchdog import Progress

T = TypeVar("T")
MAX_ATTEMPTS = 4
"""How often a request is made that fails in a way which may pass."""
MAX_PAGES = 1000
"""Of one listing; most stores put 1,000 results into each."""
_PAGE_TOKENS = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_multipart_uploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
    "list_parts": {"PartNumberMarker": "NextPartNumberMarker"},
}
"""What is asked with for the next page, and where the page before says it."""
_MALFORMED_RESPONSE_ERRORS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What comes of an answer in which something is missing or of another type."""


class S3RequestFailed(StoreError):
    """A request failed for good."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class S3Client:
    """Those of one store, whose name in lines is ``url``. Raises UsageError where boto3 cannot be set up."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url, self._timeout = url, timeout
        self.client, self.host = self._connect()

    def _connect(self) -> tuple[Any, str]:
        """A client, and where its store is. It makes each request once: what to make again is decided here."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError, ClientError, IncompleteReadError
            from botocore.parsers import ResponseParserError
            from urllib3.exceptions import HTTPError  # what comes while a body is read
        except ImportError:
            raise UsageError("s3:// needs boto3: pip install 'fedws[s3]'") from None
        self._errors = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)
        attempt_timeout = self._timeout / (
            MAX_ATTEMPTS + 2
        )  # so that all tries and the pauses between them are within it
        config = Config(
            connect_timeout=attempt_timeout,
            read_timeout=attempt_timeout,
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
            raise UsageError(f"{self._url}: {S3ErrorInfo(_get_error_code(error)).describe('')}") from None
        client.meta.events.register("before-parse.s3", whole)
        return client, host

    def retry_pause(self, attempt: int) -> float:
        """Return the seconds to wait after attempt ``attempt``, counted from 0; each pause is twice the one before."""
        return min(0.5, self._timeout / 40) * 2.0**attempt

    def call(self, request: Callable[[], T], progress: Progress, count_progress: Callable[[], int] = int) -> T:
        """Make a request and read its answer, and again while it fails in a way that may pass. Raises StoreError.

        That is bounded in number and in time; both bounds begin anew when ``count_progress`` has grown.
        """
        found = self._call_with_retries(request, progress, count_progress)
        progress.mark_progress()
        return found

    def list_results(
        self, operation: str, arguments: dict[str, str], key: str, parse_result: Callable[[Any], T], progress: Progress
    ) -> Iterator[T]:
        """The results under ``key`` in all pages of a listing, each as ``parse_result`` reads it. Raises StoreError.

        It is progress when it comes to its end: pages alone could come for ever.
        """
        following: dict[str, Any] | None = {}

        def page() -> tuple[list[T], dict[str, Any] | None]:
            answer = getattr(self.client, operation)(**arguments, **(following or {}))
            results = [parse_result(each) for each in answer.get(key, ())]
            more = answer.get("IsTruncated")
            return results, {ours: answer[theirs] for ours, theirs in _PAGE_TOKENS[operation].items()} if more else None

        for _ in range(MAX_PAGES):
            results, following = self._call_with_retries(page, progress)
            yield from results
            if following is None:
                progress.mark_progress()
                return
        raise StoreError(f"{self._url}: {self.host} lists more than {MAX_PAGES:,} pages")

    def _call_with_retries(
        self, request: Callable[[], T], progress: Progress, count_progress: Callable[[], int] = int
    ) -> T:
        seen = tries = 0
        end = time.monotonic() + self._timeout
        while True:
            progress.raise_if_cancelled()
            try:
                return request()
            except self._errors as error:
                fault = _parse_error(error)
            except _MALFORMED_RESPONSE_ERRORS:
                fault = S3ErrorInfo("ResponseParserError")
            progress.raise_if_cancelled()
            if count_progress() > seen:
                seen, tries, end = count_progress(), 0, time.monotonic() + self._timeout
            pause = self.retry_pause(tries)
            tries += 1
            if not fault.is_retryable or tries == MAX_ATTEMPTS or time.monotonic() + pause > end:
                often = f", {tries} times in a row" if tries > 1 else ""
                raise S3RequestFailed(f"{self._url}: {fault.describe(self.host)}{often}", fault.code)
            progress.wait(pause)


def get_field(response: Any, name: str, expected_type: type[T]) -> T:
    """One of an answer's. Raises KeyError or TypeError, which :meth:`S3Client.call` makes a StoreError of."""
    found = response[name]
    if not isinstance(found, expected_type):
        raise TypeError(f"{name} is no {expected_type.__name__}")
    return found


def _get_error_code(error: Exception) -> str:
    return "CertificateError" if "certificate verify failed" in str(error).lower() else type(error).__name__


def _parse_error(error: Exception) -> S3ErrorInfo:
    """What boto3, or what it stands on, says."""
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return S3ErrorInfo(_get_error_code(error))
    about = answer.get("ResponseMetadata", {})
    skew = None
    with contextlib.suppress(KeyError, ValueError, TypeError):
        skew = (datetime.now(UTC) - parsedate_to_datetime(about["HTTPHeaders"]["date"])).total_seconds()
    code = str(answer.get("Error", {}).get("Code", ""))
    return S3ErrorInfo(code, about.get("HTTPStatusCode", 0), getattr(error, "operation_name", ""), skew)
