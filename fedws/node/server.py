"""The server of a node: it serves one run at a time, off the event loop, and survives invalid messages of a peer."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

from fedws.core.error_text import describe_with_location
from fedws.core.errors import BodyUnavailable, LinkError, LinkLost, LinkRefused, RunEnded, UsageError
from fedws.core.limits import DEFAULT_MESSAGE_LIMITS, MessageLimits
from fedws.core.rate_limited_log import BURST_LINES, RateLimitedLog
from fedws.network.admission import admit
from fedws.network.base import Channel, Limits
from fedws.network.lookup import find_transport
from fedws.node.answer_cache import AnswerCache
from fedws.node.handshake import authenticate
from fedws.node.node_credentials import resolve_node_credentials
from fedws.node.request_check import RequestCheck
from fedws.node.run_lease import Lease, LeaseManager
from fedws.node.store_check import StoreCheck
from fedws.node.worker import Worker
from fedws.object_store.base import BodyStore
from fedws.protocol.close_codes import CloseCode, to_close_code
from fedws.protocol.messages import Answer, Hello, Message, Refusal, TaskRequest, Welcome
from fedws.protocol.run_claim import RunClaim
from fedws.security.credentials import INSECURE, Credentials

log = logging.getLogger("fedws")


class NodeServer:
    """A server that runs a ``Worker`` behind links.

    Each link starts with the handshake. Its requests then follow one after the other, each with its answer.
    """

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
        self._store_check = StoreCheck(worker.node, body_store, limits.handshake_timeout)
        self._cleanup_timer: asyncio.TimerHandle | None = None
        self._peer_limits = DEFAULT_MESSAGE_LIMITS
        self.run_has_ended = False
        """True if the coordinator of the newest link closed it at the end of its run."""
        self.num_requests = 0
        """Number of requests received so far."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=worker.node)

    def close(self) -> None:
        """End the node's thread. No link can be served afterwards."""
        self._cancel_cleanup()
        self._executor.shutdown()

    async def handle(
        self, channel: Channel, first_message: Message | None = None, on_accepted: Callable[[], None] = lambda: None
    ) -> None:
        """Serve one link until it closes; ``first_message`` was already received on it.

        ``on_accepted`` is called when the node accepts the run.
        """
        self.run_has_ended = False
        admitted = await admit(
            channel,
            lambda: authenticate(channel, first_message, self._worker, self._credentials, self._warning_log),
            self._limits.handshake_timeout,
            self._warning_log,
            "a peer",
        )
        if admitted is None:
            return
        hello, claim = admitted
        with contextlib.suppress(LinkError):
            await self._accept_run(channel, hello, claim, on_accepted)
        await channel.close()

    async def _accept_run(
        self, channel: Channel, hello: Hello, claim: RunClaim, on_accepted: Callable[[], None]
    ) -> None:
        reply = self._worker.handle_hello(hello)
        if isinstance(reply, Welcome) and (problem := await self._store_check.find_problem(hello, claim)):
            reply = Refusal(kind="node", reason=problem)
        try:
            if isinstance(reply, Welcome):
                async with self._leases.acquire(channel, claim) as lease:
                    closing = await self._serve_run(channel, hello, claim, reply, lease, on_accepted)
                return await closing
        except LinkRefused as refused:
            reply = Refusal(kind="busy", reason=str(refused))
        except LinkLost as lost:
            return await channel.close(str(lost), to_close_code(lost))
        if hello.run != self._last_refused_run:  # log once, since it may retry
            self._refusal_log.log(f"rejected run {claim.run_id_prefix}: {reply.reason}")
        self._last_refused_run = hello.run
        return await channel.send(reply)

    async def _serve_run(
        self,
        channel: Channel,
        hello: Hello,
        claim: RunClaim,
        welcome: Welcome,
        lease: Lease,
        on_accepted: Callable[[], None],
    ) -> asyncio.Task[None]:
        """Serve a link until its work has ended, and return the task that closes the link, which may take longer."""
        name, reason = claim.run_id_prefix, "ended"
        logged_error: Exception | None = None
        on_accepted()
        encryption = f" (encrypted: {channel.encryption})" if channel.encryption else ""
        self._run_log.log(f"run {name} started{encryption}", logging.INFO)
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
            except UsageError as too_large:  # the coordinator's limit is below the size of a welcome
                why = f"the welcome has {too_large}"
                reason = f"ended: {why}"
                return asyncio.create_task(channel.close(why, CloseCode.MESSAGE_REJECTED))
            error, closing = await self._answer_requests(channel, lease)
            self.run_has_ended = isinstance(error, RunEnded)
            reason = f"ended: {error}"
            return closing
        except LinkError as error:
            reason = f"ended: {error}"
            raise
        except Exception as error:  # for example of a user's store or transport
            reason, logged_error = f"ended: {describe_with_location(error)}", error
            raise
        finally:
            self._schedule_cleanup(self._limits.retention, self._answer_cache.clear)
            self._run_log.log(f"run {name} {reason}", logging.INFO, logged_error)

    async def _answer_requests(self, channel: Channel, lease: Lease) -> tuple[LinkError, asyncio.Task[None]]:
        """Answer requests in turn, and keep reading so that a lost link is detected at once and stops the work.

        Return the error that ended the link, and the task that closes it. Closing starts before the work has ended,
        since the work may take longer.
        """
        # Each request has an error text, empty if it is valid. The queue holds one, so the sender keeps the others.
        requests: asyncio.Queue[tuple[TaskRequest, str]] = asyncio.Queue(1)
        request_check = RequestCheck(self._worker.node)

        async def read() -> None:
            while True:
                try:
                    message, body_error = await channel.receive(), ""
                except BodyUnavailable as error:
                    # The coordinator must not learn which store this is, or its address.
                    self._body_log.log(f"cannot read the body of a request: {error}")
                    message, body_error = error.message, "cannot fetch the request from its object store (see its log)"
                request = request_check.check(message)
                self.num_requests += 1
                lease.record_request()
                # If the link closes first, the next receive raises its error.
                await _run_while_open(channel, requests.put((request, body_error)))
                del message, request  # free the model while the node is idle

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
                except UsageError as error:  # no part of the answer was sent
                    answer = await self._run_in_thread(
                        self._worker.releases.record_unsendable, request, error, self._peer_limits
                    )
                    self._answer_cache.save(request, answer)
                    await channel.send(answer)
                lease.record_answer()
                del request, answer, saved_answer  # free the models while the node is idle
                # a lost link is detected by then
                self._schedule_cleanup(self._limits.peer_timeout, self._answer_cache.discard_answer)

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
        """Cancel the cleanup, so that the run's next link can continue."""
        if self._cleanup_timer is not None:
            self._cleanup_timer.cancel()

    def _schedule_cleanup(self, seconds: float, cleanup: Callable[[], object]) -> None:
        self._cancel_cleanup()
        self._cleanup_timer = asyncio.get_running_loop().call_later(seconds, cleanup)

    async def _run_in_thread(self, function: Callable[..., Answer], *args: Any) -> Answer:
        """Return an answer that is computed and recorded in the node's thread.

        When cancelled, stop the task and wait for the thread. An answer that it still returns is kept for the next
        link.
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
        """Save the answer that the thread returned after its link was lost, unless another run has the node."""
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


@contextlib.asynccontextmanager
async def serve(
    worker: Worker,
    url: str,
    limits: Limits | None = None,
    credentials: Credentials | None = None,
    body_store: BodyStore | None = None,
) -> AsyncIterator[str]:
    """Serve ``worker`` at ``url`` while the context lasts, and yield the URL.

    With ``body_store``, large bodies travel through its object store if the coordinator has one too. Without
    ``credentials``, coordinators must prove the user's own network key. ``memory://`` needs no key, since only this
    process can reach it. Raises UsageError if the node cannot listen.
    """
    limits, transport = limits or Limits(), find_transport(url)
    credentials = resolve_node_credentials(worker.node, transport, credentials)
    # At a broker, nodes do not present certificates to each other.
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
