"""An S3 store on this machine (moto), behind a proxy that causes the faults of stores."""

import contextlib
import http.client
import itertools
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from functools import cache, cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore import session
from moto.server import ThreadedMotoServer

KEY_ID, SECRET = "AKIAFEDWSTESTS", "never/to/be/seen"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": KEY_ID,
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}
"""Invalid credentials, and settings that prevent a search for others."""
Fault = Callable[["Handler"], None]
ALWAYS = 10**9
_BUCKET_NUMBERS = itertools.count()
"""Numbers of all buckets of this process, because moto keeps them until it ends."""


def operation(method: str, url: str) -> str:
    """Return the name of a request in S3."""
    parts = urlsplit(url)
    query = parse_qs(parts.query, keep_blank_values=True)
    if not parts.path.strip("/").partition("/")[2]:  # of a bucket
        names = {"GET": "ListMultipartUploads" if "uploads" in query else "ListObjectsV2", "PUT": "CreateBucket"}
    elif "uploads" in query:
        names = {"POST": "CreateMultipartUpload"}
    elif "uploadId" in query:
        names = {"GET": "ListParts", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
        names["PUT"] = f"UploadPart {query.get('partNumber', [''])[0]}"
    else:
        names = {"GET": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}
    return names[method]


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "StoreProxy"

    def _handle(self) -> None:
        name = operation(self.command, self.path)
        fault = self.server.next_fault(name)
        self.server.requests.append(name)
        if fault is not None:
            fault(self)
        else:
            self.body()
            self.forward()

    do_GET = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def body(self, most: int | None = None) -> None:
        """Read the request's body, or at most ``most`` bytes of it."""
        size = int(self.headers.get("Content-Length", 0))
        self.sent = self.rfile.read(size if most is None else min(most, size))

    def ask(self) -> tuple[http.client.HTTPResponse, bytes]:
        """Send the request to the store, and return its answer."""
        with contextlib.closing(http.client.HTTPConnection(*self.server.behind)) as store:
            store.request(self.command, self.path, self.sent, dict(self.headers))
            answer = store.getresponse()
            return answer, answer.read()

    def forward(self, most: int | None = None) -> None:
        """Pass the store's answer on, with at most ``most`` bytes of its body."""
        answer, data = self.ask()
        if answer.status == 500 and "uploadId" in self.path:  # moto's answer for an upload that does not exist
            self.refuse(404, "NoSuchUpload")
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.answer(data, most)

    def answer(self, data: bytes, most: int | None = None) -> None:
        """End the header, and send at most ``most`` bytes of the body."""
        if data or self.command != "DELETE":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:most])

    def refuse(self, status: int, code: str, ahead: float = 0.0) -> None:
        """Answer with an error."""
        self.send_response_only(status)
        self.send_header("Date", formatdate(time.time() - ahead, usegmt=True))
        self.answer(f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def refuses(status: int, code: str, ahead: float = 0.0) -> Fault:
    """Answer with an error; the client's clock is ``ahead`` seconds ahead of the store's."""

    def fault(handler: Handler) -> None:
        handler.body()
        handler.refuse(status, code, ahead)

    return fault


def cuts_answer(after: int) -> Fault:
    """Close the connection after so many bytes of the store's answer."""

    def fault(handler: Handler) -> None:
        handler.body()
        handler.forward(after)
        handler.close_connection = True

    return fault


def cuts_request(after: int) -> Fault:
    """Close the connection after so many bytes of the request; the store does not receive it."""

    def fault(handler: Handler) -> None:
        handler.body(after)
        handler.close_connection = True

    return fault


def loses_answer(handler: Handler) -> None:
    """Close the connection after the store has carried out the request, without its answer."""
    handler.body()
    handler.ask()
    handler.close_connection = True


def hangs(handler: Handler) -> None:
    """Read the request, and never answer."""
    handler.body()
    handler.server.ended.wait()
    handler.close_connection = True


def stalls(after: int) -> Fault:
    """Send so many bytes of an answer, then nothing more."""

    def fault(handler: Handler) -> None:
        handler.body()
        handler.forward(after)
        handler.wfile.flush()
        handler.server.ended.wait()
        handler.close_connection = True

    return fault


def garbage(handler: Handler) -> None:
    """Answer like a server that is not S3."""
    handler.body()
    handler.send_response_only(404)
    handler.answer(b"<html><p>There is no such page</html>")


def answers(data: bytes, **headers: str) -> Fault:
    """Answer every request with these bytes, and with these headers (``_`` stands for ``-``)."""

    def fault(handler: Handler) -> None:
        handler.body()
        handler.send_response_only(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.answer(data)

    return fault


def dribbles(handler: Handler) -> None:
    """Send the header of the store's answer, then its body one byte at a time, without an end."""
    handler.body()
    answer, data = handler.ask()
    handler.send_response_only(answer.status)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.server.ended.wait(0.02):
            handler.wfile.write(data[:1])
            data = data[1:] or b" "
    handler.close_connection = True


@dataclass
class PlannedFault:
    """A fault to cause."""

    operation: str
    fault: Fault
    times: int
    skip: int


class StoreProxy(ThreadingHTTPServer):
    """A proxy that passes requests on to a store, except those that ``make`` names."""

    daemon_threads = True

    def __init__(self, behind: tuple[str, int], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behind = behind
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.requests: list[str] = []
        """Names of the requests so far, in S3's terms."""
        self.ended = threading.Event()
        self._planned: list[PlannedFault] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.ended.set()
        self.shutdown()
        self.server_close()
        self._thread.join()

    def make(self, operation: str, fault: Fault, times: int = 1, skip: int = 0) -> None:
        """Answer the next requests for ``operation`` with a fault, after the first ``skip``."""
        with self._lock:
            self._planned.append(PlannedFault(operation, fault, times, skip))

    def heal(self) -> None:
        """Cause no more faults, and forget all requests."""
        with self._lock:
            self._planned.clear()
        self.requests.clear()

    def next_fault(self, name: str) -> Fault | None:
        """Return the fault for a request of that name, if there is one."""
        with self._lock:
            for planned in self._planned:
                if name.partition(" ")[0] != planned.operation or not planned.times:
                    continue
                if planned.skip:
                    planned.skip -= 1
                    return None
                planned.times -= 1
                return planned.fault
        return None

    @cached_property
    def client(self) -> Any:
        """Client of the store itself; its requests are not in ``requests``."""
        return boto3.client("s3", endpoint_url="http://{}:{}".format(*self.behind))

    def bucket(self) -> str:
        """Create an empty bucket, and return its name."""
        name = f"bucket-{next(_BUCKET_NUMBERS)}"
        self.client.create_bucket(Bucket=name)
        return name

    def left(self, bucket: str) -> list[str]:
        """Return the keys of all objects and unfinished uploads."""
        found = self.client.list_objects_v2(Bucket=bucket).get("Contents", [])
        found += self.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return sorted(each["Key"] for each in found)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that close their connection, which some tests do."""


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


@contextlib.contextmanager
def served() -> Iterator[StoreProxy]:
    """Serve a store for the tests of a file, and set the environment that leads to it."""

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        with StoreProxy(server.get_host_and_port()) as proxy, pytest.MonkeyPatch.context() as patch:
            # Otherwise every client reads the descriptions of all services again, which takes most of its time.
            patch.setattr(session, "create_loader", cache(session.create_loader))
            for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE", "AWS_DEFAULT_PROFILE"):
                patch.delenv(name, raising=False)
            for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}"}.items():
                patch.setenv(name, value)
            yield proxy
    finally:
        server.stop()
