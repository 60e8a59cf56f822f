"""A node on its links: serves one run at a time, off the event loop, and survives whatever a peer sends."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from fedws.core.error_text import describe_with_location
from fedws.core.errors import BodyUnavailable, LinkError, LinkLost, LinkRefused, UsageError
from fedws.core.limits import DEFAULT_MESSAGE_LIMITS, MessageLimits
from fedws.core.rate_limited_log import BURST_LINES, RateLimitedLog
from fedws.network.admission import admit
from fedws.network.base import Channel, Limits, Transport
from fedws.network.lookup import find_transport
from fedws.node.answer_cache import AnswerCache
from fedws.node.handshake import authenticate
from fedws.node.request_check import RequestCheck
from fedws.node.run_lease import Lease, LeaseManager
from fedws.node.worker import Worker
from fedws.object_store.base import BodyStore
from fedws.protocol.close_codes import CloseCode, to_close_code
from fedws.protocol.messages import Answer, Hello, Message, Refusal, TaskRequest, Welcome
from fedws.protocol.run_claim import RunClaim
from fedws.security.credentials import INSECURE, Credentials, load_default_credentials

log = logging.getLogger("fedws")


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
        name, reason = claim.run_id_prefix, "ended"
        logged_error: Exception | None = None
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
            reason, logged_error = f"ended: {describe_with_location(error)}", error
            raise
        finally:
            self._schedule_cleanup(self._limits.retention, self._answer_cache.clear)
            self._run_log.log(f"run {name} {reason}", logging.INFO, logged_error)

    async def _answer_requests(self, channel: Channel, lease: Lease) -> tuple[LinkError, asyncio.Task[None]]:
        """Answer requests in turn, while reading on, so that a lost link is seen at once and stops the work.

        Gives why it ended, and the closing of the link, which begins before the work has ended: that may take longer.
        """
        # each with what is wrong; more stay with the sender
        requests: asyncio.Queue[tuple[TaskRequest, str]] = asyncio.Queue(1)
        request_check = RequestCheck(self._worker.node)

        async def read() -> None:
            while True:
                try:
                    message, body_error = await channel.receive(), ""
                except BodyUnavailable as error:
                    # What its store is, and where, is not for the coordinator.
                    self._body_log.log(f"the body of a request: {error}")
                    message, body_error = error.message, "its object store does not give the request (see its log)"
                request = request_check.check(message)
                self.num_requests += 1
                lease.record_request()
                await _run_while_open(channel, requests.put((request, body_error)))  # what ended it is received next
                del message, request  # models, which an idle node need not hold

        async def reply() -> None:
            while True:
                request, body_error = await requests.get()
                self._cancel_cleanup()
                channel.transfers.set_peer_offsets(request.resume_offsets)
                saved_answer = self._answer_cache.find_result(request)
                if saved_answer is None or body_error:
                    answer = await self._run_in_thread(self._worker.execute, request, self._peer_limits, body_error)
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

        async def wait_lease_ended() -> None:
            await lease.ended.wait()
            raise lease.error

        tasks = [asyncio.create_task(end()) for end in (read, reply, wait_lease_ended)]
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


async def _run_while_open(channel: Channel, coroutine: Coroutine[Any, Any, None]) -> None:
    """Wait for ``coroutine``, but cancel it when the link is down."""
    tasks = [asyncio.create_task(coroutine), asyncio.create_task(channel.wait_closed())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


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
