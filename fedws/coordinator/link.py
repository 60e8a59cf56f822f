"""One link from the coordinator to a node: dialled with patience, then orders out and answers in."""

import asyncio
import logging
from dataclasses import replace
from typing import Literal

from fedws.errors import (
    LinkError,
    LinkLost,
    ProtocolError,
    Refused,
    RunFailed,
    Unreachable,
    UsageError,
    WrongNode,
    printable,
)
from fedws.interfaces import Channel, Limits
from fedws.messages import Failure, Hello, Order, Refusal, Report, Welcome
from fedws.service import transport
from fedws.wire import VERSION

log = logging.getLogger("fedws")


class Link:
    """An open link to a node that has welcomed this run."""

    def __init__(self, node: str, channel: Channel, welcome: Welcome) -> None:
        self.node = node
        self.channel = channel
        self.welcome = welcome

    async def ask(self, order: Order) -> Report | Failure:
        """Send an order and wait for its answer; a lost link is an answer too, a Failure of kind ``lost``."""
        try:
            await self.channel.send(order)
            answer = await self.channel.receive()
            due = order.id, self.node, order.round
            if not isinstance(answer, Report | Failure) or (answer.order, answer.worker, answer.round) != due:
                raise ProtocolError(f"{type(answer).__name__.lower()} where the answer to order {order.id} was due")
        except ProtocolError as error:
            await self.channel.close(str(error))
            return self._failure(order, "lost", f"broke the protocol: {error}")
        except LinkLost as error:
            return self._failure(order, "lost", f"link lost: {error}")
        except UsageError as error:  # the order is above --max-message, or its model has tensors that cannot travel
            return self._failure(order, "failed", f"its order cannot be sent: {error}")
        return replace(answer, reason=printable(answer.reason)) if isinstance(answer, Failure) else answer

    def _failure(self, order: Order, kind: Literal["lost", "failed"], reason: str) -> Failure:
        return Failure(order=order.id, worker=self.node, round=order.round, kind=kind, reason=reason)


async def dial(
    node: str, url: str, run: str, role: Literal["worker", "evaluator"], dataset: str, limits: Limits
) -> Link:
    """Dial until the node welcomes the run, for at most ``limits.silence`` seconds; the first wait is said.

    Raises RunFailed, naming node and address, when the time is over; WrongNode when it is not the one that was meant or
    does not hold ``dataset``; UsageError when the address is none.
    """
    clock = asyncio.get_running_loop().time
    until = clock() + limits.silence
    pause, said = 0.1, False
    while True:
        try:
            async with asyncio.timeout_at(until):
                return await _once(node, url, run, role, dataset, limits)
        except TimeoutError:
            reason = "no answer"
        except Refused as refused:
            reason = str(refused)
            if refused.kind != "busy":
                raise WrongNode(f"{node} at {url}: {reason}") from None
        except Unreachable as error:
            reason = str(error)
        except LinkError as error:
            raise RunFailed(f"{node} at {url}: {error}") from None
        left = until - clock()
        if left < 0.1:
            raise RunFailed(f"{node} at {url} could not be reached in {limits.silence:g} s: {reason}")
        if not said:
            log.info("Waiting for %s at %s (%s), at most %g s", node, url, reason, limits.silence)
            said = True
        await asyncio.sleep(min(pause, left - 0.05))  # a last try just before the end
        pause = min(2 * pause, 2.0)


async def _once(node: str, url: str, run: str, role: str, dataset: str, limits: Limits) -> Link:
    channel = await transport(url).connect(url, limits)
    try:
        await channel.send(Hello(run=run, node=node, protocol=VERSION))
        answer = await channel.receive()
        if isinstance(answer, Refusal):
            raise Refused(answer.kind, printable(answer.reason))
        if not isinstance(answer, Welcome):
            raise ProtocolError(f"{type(answer).__name__.lower()} where a welcome was due")
        if answer.role != role:
            raise Refused("node", f"it is {_article(answer.role)}, not {_article(role)}")
        if answer.dataset != dataset:
            raise Refused("node", f"it holds {printable(answer.dataset, 64)}, not {dataset}; see --dataset")
    except BaseException:
        await channel.close("the coordinator did not go on")
        raise
    return Link(node, channel, answer)


def _article(role: str) -> str:
    return f"an {role}" if role == "evaluator" else f"a {role}"
