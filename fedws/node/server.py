"""A node on its links: serves one run at a time, off the event loop, and survives whatever a peer sends."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from fedws.core.error_text import describe_with_location
from fedws.core.errors import BodyUnavailable, LinkError, LinkLost, LinkRefused, ProtocolError, UsageError
from fedws.core.limits import DEFAULT_MESSAGE_LIMITS, MessageLimits
from fedws.core.rate_limited_log import BURST_LINES, RateLimitedLog
from fedws.core.untrusted_text import to_printable
from fedws.network.admission import admit
from fedws.network.base import Channel, Limits, Transport
from fedws.network.lookup import find_transport
from fedws.node.answer_cache import AnswerCache
from fedws.node.authentication import authenticate
from fedws.node.run_lease import Lease, LeaseManager, run_while_open
from fedws.node.worker import Worker
from fedws.object_store.base import BodyStore
from fedws.protocol.close_codes import CloseCode, to_close_code
from fedws.protocol.messages import (
    MESSAGE_NAMES,
    Answer,
    Hello,
    Message,
    Refusal,
    TaskRequest,
    Welcome,
)
from fedws.protocol.run_claim import RunClaim
from fedws.security.credentials import INSECURE, Credentials, load_default_credentials

log = logging.getLogger("fedws")
MAX_REQUEST_ID_CHARS = 128
"""Characters of a request's id."""
REMEMBERED_REQUEST_IDS = 4096
"""Ids of the last requests of a link; one that comes a second time breaks the protocol."""


class NodeServer:
    """Runs a :class:`Worker` behind links: handshake, then requests one after the other, each with its answer."""

    def __init__(
        self, worker: Worker, limits: Limits, credentials: Credentials = INSECURE, body_store: BodyStore | None = None
    ) -> None:
        worker.require_samples()
        self._worker = worker
        self._limits = limits
        self._credentials = credentials
        self._leases = LeaseManager(worker.node, limits)
        self._last_refused_run = ""
        self._warning_log = RateLimitedLog(worker.node)
        self._run_log, self._refusal_log, self._body_log = (RateLimitedLog(worker.node, BURST_LINES) for _ in range(3))
        self._answer_cache = AnswerCache(worker.node, body_store)
        self._cleanup_timer: asyncio.TimerHandle | None = None
        self._peer_limits = DEFAULT_MESSAGE_LIMITS
        self.num_requests = 0
        """How many have come so far."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=worker.node)

    def close(self) -> None:
        """End the node's thread; no link is served any more."""
        self._cancel_cleanup()
        self._executor.shutdown()

    async def handle(self, channel: Channel, first_message: Message | None = None) -> None:
        """Serve one link until it closes; ``first_message`` has been received on it already."""
        admitted = await admit(
            channel,
            lambda: authenticate(channel, first_message, self._worker, self._credentials, self._warning_log),
            self._limits.handshake_timeout,
            self._warning_log,
            "a caller",
        )
        if admitted is None:
            return
        hello, claim = admitted
        with contextlib.suppress(LinkError):
            await self._accept_run(channel, hello, claim)
        await channel.close()

    async def _accept_run(self, channel: Channel, hello: Hello, claim: RunClaim) -> None:
        reply = self._worker.handle_hello(hello)
        try:
            if isinstance(reply, Welcome):
                async with self._leases.acquire(channel, claim) as lease:
                    closing = await self._serve_run(channel, hello, claim, reply, lease)
                return await closing
        except LinkRefused as refused:
            reply = Refusal(kind="busy", reason=str(refused))
        except LinkLost as lost:
            return await channel.close(str(lost), to_close_code(lost))
        if hello.run != self._last_refused_run:  # it may go on asking
            self._refusal_log.log(f"refused run {claim.run_id_prefix}: {reply.reason}")
        self._last_refused_run = hello.run
        return await channel.send(reply)

    async def _serve_run(
        self, channel: Channel, hello: Hello, claim: RunClaim, welcome: Welcome, lease: Lease
    ) -> asyncio.Task[None]:
        """Serve a link until its work has ended; return the closing of the link, which may take longer."""
        name, reason, trouble = claim.run_id_prefix, "ended", None
        self._run_log.log(f"run {name} begins", logging.INFO)
        try:
            self._worker.start_run(claim, channel.peer)
            self._cancel_cleanup()
            channel.transfers = self._answer_cache.start_link(claim)
            channel.transfers.set_peer_has_body_store(hello.has_body_store)
            self._peer_limits = MessageLimits(hello.max_message_bytes, hello.max_tensors, "the coordinator")
            channel.transfers.set_peer_limits(self._peer_limits)
            resume_offsets, has_body_store = channel.transfers.resume_offsets, channel.transfers.has_body_store
            try:
                await channel.send(
                    replace(
                        welcome,
                        resume_offsets=resume_offsets,
                        has_body_store=has_body_store,
                        max_message_bytes=self._limits.max_message_bytes,
                    )
                )
            except UsageError as too_large:  # the coordinator accepts less than a welcome
                why = f"the welcome has {too_large}"
                reason = f"ended: {why}"
                return asyncio.create_task(channel.close(why, CloseCode.MESSAGE_REJECTED))
            error, closing = await self._answer_requests(channel, lease)
            reason = f"ended: {error}"
            return closing
        except LinkError as error:
            reason = f"ended: {error}"
            raise
        except Exception as error:  # as of a store or a transport of the user's
            reason, trouble = f"ended: {describe_with_location(error)}", error
            raise
        finally:
            self._schedule_cleanup(self._limits.retention, self._answer_cache.clear)
            self._run_log.log(f"run {name} {reason}", logging.INFO, trouble)

    async def _answer_requests(self, channel: Channel, lease: Lease) -> tuple[LinkError, asyncio.Task[None]]:
        """Answer requests in turn, while reading on, so that a lost link is seen at once and stops the work.

        Gives why it ended, and the closing of the link, which begins before the work has ended: that may take longer.
        """
        # each with what is wrong; more stay with the sender
        requests: asyncio.Queue[tuple[TaskRequest, str]] = asyncio.Queue(1)
        seen: dict[str, None] = {}  # in their order

        async def read() -> None:
            while True:
                try:
                    message, trouble = await channel.receive(), ""
                except BodyUnavailable as error:
                    # What its store is, and where, is not for the coordinator.
                    self._body_log.log(f"the body of a request: {error}")
                    message, trouble = error.message, "its object store does not give the request (see its log)"
                request = self._check_request(message, seen)
                lease.record_request()
                await run_while_open(channel, requests.put((request, trouble)))  # what ended it is received next
                del message, request  # models, which an idle node need not hold

        async def reply() -> None:
            while True:
                request, trouble = await requests.get()
                self._cancel_cleanup()
                channel.transfers.set_peer_offsets(request.resume_offsets)
                saved_answer = self._answer_cache.find_result(request)
                if saved_answer is None or trouble:
                    answer = await self._run_in_thread(self._worker.execute, request, self._peer_limits, trouble)
                else:
                    answer = await self._run_in_thread(
                        self._worker.releases.record_resend, request, saved_answer, self._peer_limits
                    )
                self._answer_cache.save(request, answer)
                try:
                    await channel.send(answer)
                except UsageError as error:  # nothing of it was sent
                    answer = await self._run_in_thread(
                        self._worker.releases.record_unsendable, request, error, self._peer_limits
                    )
                    self._answer_cache.save(request, answer)
                    await channel.send(answer)
                lease.record_answer()
                del request, answer, saved_answer  # models, which an idle node need not hold
                self._schedule_cleanup(
                    self._limits.peer_timeout, self._answer_cache.discard_answer
                )  # a lost link is known by then

        async def give_way() -> None:
            await lease.ended.wait()
            raise lease.error

        tasks = [asyncio.create_task(end()) for end in (read, reply, give_way)]
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = next(error for task in tasks if task in ended and (error := task.exception()))
            if not isinstance(error, LinkError):
                raise error
            return error, asyncio.create_task(channel.close(str(error), to_close_code(error)))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _cancel_cleanup(self) -> None:
        """Do not forget what the run's next link could go on with."""
        if self._cleanup_timer is not None:
            self._cleanup_timer.cancel()

    def _schedule_cleanup(self, seconds: float, cleanup: Callable[[], object]) -> None:
        self._cancel_cleanup()
        self._cleanup_timer = asyncio.get_running_loop().call_later(seconds, cleanup)

    async def _run_in_thread(self, function: Callable[..., Answer], *args: Any) -> Answer:
        """Return an answer that is made, and written down, in the node's thread.

        When cancelled, stop the task and wait for the thread; an answer made all the same is kept for the next link.
        """
        working = asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        try:
            return await asyncio.shield(working)
        except asyncio.CancelledError:
            self._worker.stop()
            working.add_done_callback(partial(self._save_late_answer, args[0], self._answer_cache.claim))
            await asyncio.wait([working])
            raise

    def _save_late_answer(self, request: TaskRequest, claim: RunClaim, future: asyncio.Future[Answer]) -> None:
        """Keep what the thread made after its link was lost, unless another run has the node."""
        self._worker.resume()
        if not future.cancelled() and future.exception() is None and claim is self._answer_cache.claim:
            self._answer_cache.save(request, future.result())

    def _check_request(self, message: Message, seen_ids: dict[str, None]) -> TaskRequest:
        if not isinstance(message, TaskRequest):
            raise ProtocolError(f"{MESSAGE_NAMES[type(message)]} where a request was due")
        if message.worker != self._worker.node:
            raise ProtocolError(f"a request for {to_printable(message.worker, 64)}; this is {self._worker.node}")
        if len(message.request_id) > MAX_REQUEST_ID_CHARS:
            raise ProtocolError(f"a request id of {len(message.request_id)} characters; at most {MAX_REQUEST_ID_CHARS}")
        if message.request_id in seen_ids:
            raise ProtocolError(f"request {to_printable(message.request_id, 64)} a second time")
        seen_ids[message.request_id] = None
        self.num_requests += 1
        if len(seen_ids) > REMEMBERED_REQUEST_IDS:
            del seen_ids[next(iter(seen_ids))]
        return message


def resolve_node_credentials(worker: Worker, transport: Transport, credentials: Credentials | None) -> Credentials:
    """What a node asks of its callers: the user's own key where nothing else is said and strangers may come."""
    credentials = credentials or (INSECURE if transport.in_process else load_default_credentials())
    if credentials.key is None and not transport.in_process:
        log.warning(
            "%s takes part --insecure: whoever reaches it may have it train, and read what comes of it", worker.node
        )
    return credentials


@contextlib.asynccontextmanager
async def serve(
    worker: Worker,
    url: str,
    limits: Limits | None = None,
    credentials: Credentials | None = None,
    body_store: BodyStore | None = None,
) -> AsyncIterator[str]:
    """Serve ``worker`` at ``url`` while the context lasts; gives the URL. Raises UsageError when it cannot listen.

    With ``body_store``, large bodies go through its object store, if the coordinator has one too. Without
    ``credentials`` callers must know the user's own network key, but for ``memory://``, which no stranger reaches.
    """
    limits, transport = limits or Limits(), find_transport(url)
    credentials = resolve_node_credentials(worker, transport, credentials)
    # at a broker no node shows a certificate
    node_credentials = replace(credentials, tls=None) if transport.brokered else credentials
    with contextlib.closing(NodeServer(worker, limits, node_credentials, body_store)) as service:
        serving = transport.serve(
            url,
            service.handle,
            limits,
            credentials.tls,
            node=worker.node,
            encrypt_payloads=credentials.encrypt_payloads,
        )
        async with serving as address:
            yield address
