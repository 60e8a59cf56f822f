"""Who is there, what each was asked, and whom the run does without: what all strategies keep of their workers."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from fedws.core.durations import duration
from fedws.core.errors import RejectedUpdate, printable
from fedws.core.limits import FEATURES
from fedws.core.seeds import order_seed
from fedws.core.tensors import Tensors, difference, unfit
from fedws.protocol.messages import Failure, Order, Report
from fedws.scheduling.base import Ask, Candidate
from fedws.scheduling.events import Available, Event, Joined, Left, Measured
from fedws.scheduling.lost_requests import NEVER, Repeated

STRIKES = 3
"""Failed or rejected answers in a row that exclude a worker."""
POSTPONED = 3
"""Times in a row that a worker may put off the same request until later: then the request has failed too."""


@dataclass(frozen=True)
class Terms:
    """What the plan says to any strategy."""

    workers: tuple[str, ...]
    """All of the plan, there or not."""
    rounds: int
    seed: int
    quorum: int
    over_select: float = 0.0
    features: int = FEATURES
    """Bytes of features and labels that are stored at most, of all workers together."""


@dataclass(frozen=True)
class Asked:
    """An order that is not answered yet."""

    worker: str
    round: int
    version: int
    """Of the model that it carries."""
    task: str = ""


@dataclass(frozen=True)
class Member:
    """What is known of one worker."""

    here: bool = False
    round: int = 0
    """The last round that it was asked in; for an asynchronous strategy, how many orders it had."""
    attempt: int = 0
    """How often it was asked in that round."""
    base: int = 0
    """The last round of which its report was taken."""
    strikes: int = 0
    """Orders in a row that it refused, failed, or answered with what was rejected."""
    lost: Repeated = NEVER
    """Losses in a row while it had the same request."""
    postponed: int = 0
    """Times in a row that it refused the same request until later."""
    waiting: bool = False
    """Whether it gets no request until the time that it stated has passed."""
    excluded: str = ""
    """Why it is not asked any more."""
    samples: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Roster:
    """The workers of a run and their open orders; every method gives a new one."""

    members: dict[str, Member]
    open: dict[str, Asked] = field(default_factory=dict)
    failures: int = 0
    """Orders that failed, for whatever reason, since they were last counted."""
    said: tuple[str, ...] = ()
    """Log lines of the last event."""

    @classmethod
    def of(cls, workers: Sequence[str], here: Collection[str]) -> "Roster":
        """The workers of the plan, and those of them that are there; a mapping says how many samples each holds."""
        return cls({worker: _seen(Member(), worker, here) for worker in workers})

    def again(self, here: Collection[str], workers: Collection[str] | None = None) -> "Roster":
        """After a restart of the coordinator: no order is open, and those are there that are there now.

        ``workers`` are those of the plan now: others are removed, and new ones come last. None: the same as before.
        """
        members = {worker: member for worker, member in self.members.items() if workers is None or worker in workers}
        members |= {worker: Member() for worker in workers or () if worker not in members}
        roster = Roster({worker: _seen(member, worker, here) for worker, member in members.items()})
        for worker, reason in excluded(roster).items():
            roster = roster.say(f"{worker} stays excluded: it {reason}")
        return roster

    def idle(self) -> list[str]:
        """Who can be asked: able, and with no order open."""
        busy = {asked.worker for asked in self.open.values()}
        return [worker for worker in self.able() if worker not in busy]

    def able(self) -> list[str]:
        """Return the workers that are connected, not excluded, and not waiting until a stated time."""
        return [worker for worker in self.present() if not self.members[worker].waiting]

    def present(self) -> list[str]:
        """Return the workers that are connected and not excluded, also those waiting until a stated time."""
        return [worker for worker, member in self.members.items() if member.here and not member.excluded]

    def away(self) -> list[str]:
        """Who is not there, and not excluded."""
        return [worker for worker, member in self.members.items() if not member.here and not member.excluded]

    def lacking(self, quorum: int) -> str:
        """Why ``quorum`` workers will never be there; empty while they may come."""
        excluded = {worker: member.excluded for worker, member in self.members.items() if member.excluded}
        if len(self.members) - len(excluded) >= quorum:
            return ""
        reasons = "; ".join(f"{worker}: {reason}" for worker, reason in excluded.items())
        return f"too few workers are left for a quorum of {quorum}: {reasons}"

    def candidates(self, round: int) -> list[Candidate]:
        """What a chooser is told of those who are idle before ``round``."""
        known = {worker: self.members[worker] for worker in self.idle()}
        return [Candidate(name, it.samples, it.seconds, max(0, round - 1 - it.round)) for name, it in known.items()]

    def hear(self, event: Event) -> tuple["Roster", Asked | None]:
        """Take an event; an answer is given with what was asked, or None if nobody waits for it: it is dropped.

        A failure counts as :meth:`fail` says.
        """
        if isinstance(event, Report | Failure):
            asked = self.open.get(event.order)
            if asked is None or asked.worker != event.worker:
                return self, None
            rest = {order: other for order, other in self.open.items() if order != event.order}
            roster = replace(self, open=rest, said=())
            if isinstance(event, Report):
                return roster, asked
            if event.kind == "lost":  # its Left comes next; nobody is asked before
                roster = roster.with_(event.worker, here=False)
            return roster.fail(event, asked.task), asked
        member = None if not hasattr(event, "worker") else self.members.get(event.worker)
        if member is None:
            return self, None
        roster = replace(self, said=())
        if isinstance(event, Joined):
            roster = roster.with_(event.worker, here=True, samples=event.samples or member.samples)
            return (roster if member.here or member.excluded else roster.say(f"{event.worker} has joined")), None
        if isinstance(event, Left):
            roster = roster.with_(event.worker, here=False)
            left = f"{event.worker} has left: {event.reason}"
            return (roster if member.excluded else roster.say(left)), None
        if isinstance(event, Available):
            return roster.with_(event.worker, waiting=False), None
        if isinstance(event, Measured):
            seconds = (member.seconds + event.seconds) / 2 if member.seconds else event.seconds
            return roster.with_(event.worker, seconds=seconds), None
        return self, None

    def order(
        self, worker: str, round: int, version: int, seed: int, ask: Ask, answer: int | None = None
    ) -> tuple["Roster", Order]:
        """Ask a worker; ``seed`` is the run's. Asked again in a round, the order differs in its id alone.

        ``answer`` is the size of its report's tensors in bytes, see :class:`fedws.protocol.messages.Order`.
        """
        member = self.members[worker]
        attempt = member.attempt + 1 if member.round == round else 1
        order = Order(
            id=f"{round}/{worker}" if attempt == 1 else f"{round}/{worker}/{attempt}",
            worker=worker,
            round=round,
            task=ask.task,
            base=member.base,
            seed=order_seed(seed, worker, round),
            settings=ask.settings,
            answer=answer,
            tensors=ask.tensors,
        )
        new = {} if member.round == round else {"lost": NEVER, "postponed": 0}
        roster = self.with_(worker, round=round, attempt=attempt, **new)
        return replace(roster, open={**self.open, order.id: Asked(worker, round, version, ask.task)}), order

    def accept(self, report: Report) -> "Roster":
        """Its report counts."""
        return self.with_(report.worker, base=report.round, samples=report.samples).good(report.worker)

    def good(self, worker: str) -> "Roster":
        """A good report of the worker has arrived, which ends every row of failures."""
        return self.with_(worker, strikes=0, lost=NEVER, postponed=0)

    def fail(self, failure: Failure, task: str = "") -> "Roster":
        """Its order failed. That is a strike, and the third in a row excludes; a permanent refusal does so at once.

        A loss and a refusal until later are no strikes unless they repeat: see :class:`Repeated`, :data:`POSTPONED`.
        """
        worker, roster = failure.worker, replace(self, failures=self.failures + 1)
        member = roster.members[worker]
        if failure.kind == "lost":
            lost = member.lost.after(failure)
            reason = lost.reason(printable(task, 64))
            roster = roster.with_(worker, lost=NEVER if reason else lost)
            if not reason:
                return roster
            failure = replace(failure, kind="failed", reason=reason)
        if failure.code == "later":
            postponed = (member.postponed + 1) % POSTPONED
            wait = f"{worker} gets no request for {duration(failure.wait)}: it {_did(failure)}"
            roster = roster.with_(worker, waiting=True, postponed=postponed)
            if postponed:
                return roster.say(wait)
        if failure.code == "permanent":
            return roster.exclude(worker, _did(failure))
        strikes = member.strikes + 1
        roster = roster.with_(worker, strikes=strikes)
        if strikes < STRIKES:
            return roster.say(f"{worker} {_did(failure)}")
        return roster.exclude(worker, f"{_did(failure)}, three times in a row")

    def exclude(self, worker: str, why: str) -> "Roster":
        """The worker is not asked any more in this run."""
        return self.with_(worker, excluded=why).say(f"{worker} is excluded: it {why}")

    def failed(self, worker: str, round: int) -> bool:
        """Whether its last order was one of ``round``, and failed without being lost."""
        member = self.members[worker]
        return member.round == round and member.strikes > 0

    def counted(self) -> tuple["Roster", int]:
        """How many orders failed since this was last asked."""
        return replace(self, failures=0), self.failures

    def say(self, line: str) -> "Roster":
        """Add a log line."""
        return replace(self, said=(*self.said, line))

    def with_(self, worker: str, **changes: object) -> "Roster":
        """The same, with one member changed."""
        member = replace(self.members[worker], **changes)  # type: ignore[arg-type]
        return replace(self, members={**self.members, worker: member})


class _Judge(Protocol):
    def worker_model(self, model: Tensors, report: Report) -> Tensors | None: ...


def unusable(algorithm: _Judge, model: Tensors, report: Report) -> str:
    """Why a report can be no part of ``model``: a value that is no number, a name, a shape or a dtype; else empty."""
    problem = unfit(report.tensors)
    if problem:
        return problem
    try:
        own = algorithm.worker_model(model, report)
    except RejectedUpdate as error:
        return str(error)
    if own is None:
        return ""
    return difference(own, model) or ("" if own is report.tensors else unfit(own))  # a finite step may overflow


def rejected(report: Report, problem: str) -> Failure:
    """What a report becomes that cannot be used."""
    reason = printable(problem)  # it may quote a tensor's name, which is a peer's text
    return Failure(order=report.order, worker=report.worker, round=report.round, kind="rejected", reason=reason)


def excluded(roster: Roster) -> Mapping[str, str]:
    """Who is excluded, and why."""
    return {worker: member.excluded for worker, member in roster.members.items() if member.excluded}


def made(step: Callable[[], Tensors], like: Tensors) -> tuple[Tensors, str]:
    """The next model and what is wrong with it, if anything."""
    try:
        model = step()
    except RejectedUpdate as error:
        return like, str(error)
    return model, difference(model, like) or unfit(model)


def _seen(member: Member, worker: str, here: Collection[str]) -> Member:
    samples = here.get(worker, 0) if isinstance(here, Mapping) else 0
    fresh = replace(member, lost=NEVER, postponed=0, waiting=False)
    return replace(fresh, here=worker in here, samples=samples or member.samples)


def _did(failure: Failure) -> str:
    if failure.kind == "failed" and failure.code == "permanent":  # its order was not sent
        return f"cannot be asked: {failure.reason}"
    did = {"refused": "refused its order", "rejected": "sent a report that was rejected"}
    return f"{did.get(failure.kind, 'failed')}: {failure.reason}"
