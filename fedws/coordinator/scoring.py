"""Has models scored by the evaluator while the next rounds train."""

import asyncio
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import safetensors.torch
from pydantic import AfterValidator, TypeAdapter, ValidationError

from fedws.coordinator.link import Link
from fedws.errors import FedwsError, WrongNode
from fedws.learning import Score
from fedws.messages import Order, Report
from fedws.plan import Scoring, explain
from fedws.runlog import RunLog, write_tensors
from fedws.scores import FEDERATED, score_lines
from fedws.tensors import Tensors


def _possible(score: Score) -> Score:
    """A score that could be one: a classifier's has both a count and a histogram, of as many samples."""
    counts = score.histogram or []
    if (score.correct is None) != (score.histogram is None) or not 0 <= (score.correct or 0) <= score.samples:
        raise ValueError(f"{score.correct} correct of {score.samples}, with the histogram {score.histogram}")
    if score.histogram is not None and (min(counts, default=0) < 0 or sum(counts) != score.samples):
        raise ValueError(f"a histogram {counts} of {score.samples} samples")
    return score


_SCORE = TypeAdapter(Annotated[Score, AfterValidator(_possible)])
MOST_WAITING = 8
"""Model files that may wait for a score; a round that has more of its own keeps all of them."""


@dataclass
class _Round:
    """The models of one round that are to be scored, and where its lines go."""

    round: int
    say: Callable[..., None]
    waiting: deque[tuple[str, Path]]
    """Name and file of each."""
    lines: list[str] = field(default_factory=list)
    missing: dict[str, list[str]] = field(default_factory=dict)
    """Which models were not scored, by reason."""


class Scorer:
    """Keeps models as files until the evaluator has scored them, and writes each round's scores in order.

    An evaluator that is lost or cannot score costs scores, never a round: what is missing is said in one line.
    """

    def __init__(self, evaluator: Callable[[], Awaitable[Link]], settings: Scoring, runlog: RunLog) -> None:
        self._settings = settings
        self._runlog = runlog
        self._folder = runlog.directory / "awaiting_scores"
        self._kept: dict[str, Path] = {}
        self._rounds: deque[_Round] = deque()
        self._news = asyncio.Event()
        self._last = False
        self._gone = ""
        self.groups: Sequence[Sequence[int]] = ()
        self._task = asyncio.create_task(self._score_all(evaluator))

    def keep(self, round: int, model: str, tensors: Tensors) -> None:
        """Write a model of the round that is going on; blocking, safe to call from another thread."""
        self._folder.mkdir(exist_ok=True)
        self._kept[model] = write_tensors(self._folder / f"{round}-{model}.safetensors", tensors)

    def close_round(self, round: int, order: Sequence[str]) -> None:
        """All models of the round are kept: score the workers' in the given order, the federated one last.

        Raises what ended the scoring, as WrongNode.
        """
        if self._task.done():
            self._task.result()
        kept, self._kept = self._kept, {}
        waiting = deque((model, kept[model]) for model in [*order, FEDERATED] if model in kept)
        self._rounds.append(_Round(round, self._runlog.lines.hold(), waiting))
        for _ in range(sum(len(entry.waiting) for entry in self._rounds) - max(MOST_WAITING, len(waiting))):
            self._skip_oldest()
        self._news.set()

    async def finish(self) -> None:
        """Wait until every round that was closed has its scores, or the evaluator is gone."""
        self._last = True
        self._news.set()
        await self._task

    async def stop(self) -> None:
        """Give up on the scores that are missing, and say so."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for entry in list(self._rounds):
            self._end(entry, "the run was stopped")
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _score_all(self, evaluator: Callable[[], Awaitable[Link]]) -> None:
        link: Link | None = None
        try:
            link = await evaluator()
            if self._settings.cuda and not link.welcome.cuda:
                self._runlog.lines.say(f"--cuda: no GPU on {link.node}, which computes on the CPU")
        except WrongNode:  # a mistake in the plan; the next closing round raises it
            raise
        except FedwsError as error:
            self._gone = str(error)
        try:
            while self._rounds or not self._last:
                if not self._rounds:
                    self._news.clear()
                    await self._news.wait()
                    continue
                entry = self._rounds[0]
                while entry.waiting and link is not None and not self._gone:
                    await self._score(link, entry)
                self._end(entry, self._gone)
        finally:
            if link is not None:
                await link.channel.close()

    async def _score(self, link: Link, entry: _Round) -> None:
        model, path = entry.waiting.popleft()
        try:
            tensors = await asyncio.to_thread(safetensors.torch.load_file, path)
            path.unlink()
        except (OSError, safetensors.SafetensorError) as error:
            entry.missing.setdefault(str(error), []).append(model)
            return
        order = Order(
            id=f"{entry.round}/{model}",
            worker=link.node,
            round=entry.round,
            task="evaluate",
            settings=self._settings.model_dump(),
            tensors=tensors,
        )
        answer = await link.ask(order)
        if isinstance(answer, Report):
            try:
                self._record(entry, model, _SCORE.validate_python(answer.metrics))
            except ValidationError as error:
                entry.missing.setdefault(f"no score: {explain(error)}", []).append(model)
            return
        entry.missing.setdefault(answer.reason, []).append(model)
        if answer.kind == "lost":
            self._gone = f"{link.node}: {answer.reason}"

    def _record(self, entry: _Round, model: str, score: Score) -> None:
        record = {"round": entry.round, "model": model, "accuracy": score.accuracy, **asdict(score)}
        self._runlog.record("score", **record)
        entry.lines += score_lines(record, self.groups)

    def _skip_oldest(self) -> None:
        """Give up on the worker's model that has waited longest; on a federated one only when there is no other."""
        behind = [entry for entry in self._rounds if len(entry.waiting) > 1] or [e for e in self._rounds if e.waiting]
        self._skip(behind[0], "the evaluator is too slow")

    def _skip(self, entry: _Round, reason: str) -> None:
        model, path = entry.waiting.popleft()
        path.unlink(missing_ok=True)
        entry.missing.setdefault(reason, []).append(model)

    def _end(self, entry: _Round, reason: str) -> None:
        while entry.waiting:
            self._skip(entry, reason)
        lines = entry.lines
        if entry.missing:
            missing = "; ".join(f"{', '.join(models)} ({reason})" for reason, models in entry.missing.items())
            lines = [*lines, f"Scores missing in round {entry.round}: {missing}"]
        entry.say("Evaluating models", *lines)
        self._rounds.remove(entry)
