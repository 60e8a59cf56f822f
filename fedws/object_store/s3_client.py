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
from fedws.object_store.s3_errors import Fault
from fedws.object_store.watchdog import Progress

T = TypeVar("T")
TRIES = 4
"""How often a request is made that fails in a way which may pass."""
PAGES = 1000
"""Of one listing; most stores put 1,000 results into each."""
_NEXT = {
    "list_objects_v2": {"ContinuationToken": "NextContinuationToken"},
    "list_multipart_uploads": {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"},
    "list_parts": {"PartNumberMarker": "NextPartNumberMarker"},
}
"""What is asked with for the next page, and where the page before says it."""
_MALFORMED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What comes of an answer in which something is missing or of another type."""


class Failed(StoreError):
    """A request failed for good."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class Requests:
    """Those of one store, whose name in lines is ``url``. Raises UsageError where boto3 cannot be set up."""

    def __init__(self, url: str, patience: float) -> None:
        self._url, self._patience = url, patience
        self.client, self.host = self._connected()

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
        self._errors = (BotoCoreError, ClientError, ResponseParserError, HTTPError, OSError)
        silence = self._patience / (TRIES + 2)  # so that all tries and the pauses between them are within it
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

    def asked(self, request: Callable[[], T], progress: Progress, gained: Callable[[], int] = int) -> T:
        """Make a request and read its answer, and again while it fails in a way that may pass. Raises StoreError.

        That is bounded in number and in time; both bounds begin anew when ``gained`` has grown.
        """
        found = self._tried(request, progress, gained)
        progress.step()
        return found

    def listed(
        self, operation: str, of: dict[str, str], key: str, result: Callable[[Any], T], progress: Progress
    ) -> Iterator[T]:
        """The results under ``key`` in all pages of a listing, each as ``result`` reads it. Raises StoreError.

        It is progress when it comes to its end: pages alone could come for ever.
        """
        following: dict[str, Any] | None = {}

        def page() -> tuple[list[T], dict[str, Any] | None]:
            answer = getattr(self.client, operation)(**of, **(following or {}))
            results = [result(each) for each in answer.get(key, ())]
            more = answer.get("IsTruncated")
            return results, {ours: answer[theirs] for ours, theirs in _NEXT[operation].items()} if more else None

        for _ in range(PAGES):
            results, following = self._tried(page, progress)
            yield from results
            if following is None:
                progress.step()
                return
        raise StoreError(f"{self._url}: {self.host} lists more than {PAGES:,} pages")

    def _tried(self, request: Callable[[], T], progress: Progress, gained: Callable[[], int] = int) -> T:
        seen = tries = 0
        end = time.monotonic() + self._patience
        while True:
            progress.check()
            try:
                return request()
            except self._errors as error:
                fault = _fault(error)
            except _MALFORMED:
                fault = Fault("ResponseParserError")
            progress.check()
            if gained() > seen:
                seen, tries, end = gained(), 0, time.monotonic() + self._patience
            pause = min(0.5, self._patience / 40) * 2**tries
            tries += 1
            if not fault.passing or tries == TRIES or time.monotonic() + pause > end:
                often = f", {tries} times in a row" if tries > 1 else ""
                raise Failed(f"{self._url}: {fault.line(self.host)}{often}", fault.code)
            progress.pause(pause)


def field(answer: Any, name: str, kind: type[T]) -> T:
    """One of an answer's. Raises KeyError or TypeError, which :meth:`Requests.asked` makes a StoreError of."""
    found = answer[name]
    if not isinstance(found, kind):
        raise TypeError(f"{name} is no {kind.__name__}")
    return found


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
