"""Has models scored by the evaluator while the next rounds train."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, TypeAdapter, ValidationError
from safetensors import SafetensorError

from fedws.coordinator.link import Answer, Link
from fedws.coordinator.one_time_log import Remarks
from fedws.core import private_files, tensor_file
from fedws.core.errors import RunFailed
from fedws.core.plan import Scoring, explain
from fedws.core.tensors import Tensors
from fedws.core.untrusted_text import words
from fedws.protocol.evaluation_result import Score
from fedws.protocol.messages import Failure, Order
from fedws.recording import curves
from fedws.recording.run_log import Record, RunLog, log, write_tensors
from fedws.recording.score_lines import FEDERATED, score_lines
from fedws.scheduling.lost_requests import NEVER, Repeated
from fedws.scheduling.participants import STRIKES
from fedws.updates import metrics


def _possible(score: Score) -> Score:
    """Return a score that is possible: a histogram is of a classifier and as many samples. It may be left out."""
    if score.correct is None and score.histogram is not None:
        raise ValueError("a histogram without the number of correct predictions")
    if (score.correct or 0) > score.samples:
        raise ValueError(f"{score.correct} correct of {score.samples} samples")
    if score.histogram is not None and sum(score.histogram) != score.samples:
        raise ValueError(f"a histogram of {sum(score.histogram)} predictions for {score.samples} samples")
    return score


_SCORE = TypeAdapter(Annotated[Score, AfterValidator(_possible)])
_OWN = {field.name for field in fields(Score)}
"""Metrics of an evaluator that every score has; others are its own."""
_FILE = re.compile(r"(\d+)-(.+)\.safetensors")
MOST_WAITING = 8
"""Model files that may wait for a score; a round that has more of its own keeps all of them."""


@dataclass
class _Round:
    """The models of one round that are to be scored, and where its lines go."""

    round: int
    say: Callable[..., None]
    waiting: deque[tuple[str, Path]]
    """Name and file of each."""
    lines: list[str]
    missing: dict[str, list[str]]
    """Which models were not scored, by reason."""
    tries: int = 0
    """How many orders to score its models there were."""
    lost: Repeated = NEVER
    """Losses in a row of the evaluator while it scored the first of them."""


class Scorer:
    """Keeps models as files until the evaluator has scored them, and writes each round's scores in order.

    An evaluator that is away or cannot score costs scores, never a round: what is missing is said in one line.
    """

    def __init__(self, link: Link, settings: Scoring, silence: float, runlog: RunLog, remarks: Remarks) -> None:
        self._link = link
        self._settings = settings
        self._silence = silence
        self._runlog = runlog
        self._remarks = remarks
        self._folder = runlog.directory / "awaiting_scores"
        self._kept: dict[str, Path] = {}
        self._rounds: deque[_Round] = deque()
        self._news = asyncio.Event()
        self._last = False
        self._warned = False
        self._strikes = 0
        """Orders in a row that failed."""
        self._given_up = ""
        """Why the evaluator is not asked any more."""
        self._keeping = asyncio.create_task(link.keep(lambda event: None))
        self._task = asyncio.create_task(self._score_all())

    def restore(self, version: int, waiting: Sequence[Mapping[str, Any]]) -> None:
        """After a restart: say what was not said, with the scores of rounds up to ``version``, there or to come.

        ``waiting`` is what :meth:`fedws.recording.run_log.Lines.waiting` gave then.
        """
        known = {(record["round"], record["model"]): record for record in self._runlog.records if "model" in record}
        files: dict[int, dict[str, Path]] = {}
        for path in self._folder.glob("*.safetensors*") if self._folder.is_dir() else ():
            match = _FILE.fullmatch(path.name)
            if match is None or int(match[1]) > version or (int(match[1]), match[2]) in known:
                path.unlink()
            else:
                files.setdefault(int(match[1]), {})[match[2]] = path
        for entry in waiting:
            if "lines" in entry:
                self._runlog.lines.say(*entry["lines"])
                continue
            round, *models = entry["about"]
            there, scores = files.get(round, {}), [known[round, it] for it in models if (round, it) in known]
            gone = [model for model in models if model not in there and (round, model) not in known]
            missing = {"given up before the run went on": gone} if gone else {}
            self._wait(round, models, there, [line for score in scores for line in self._told(score)], missing)

    def keep(self, round: int, model: str, tensors: Tensors) -> None:
        """Write a model of the round that is going on; blocking, safe to call from another thread."""
        if self._given_up:
            return
        try:
            private_files.folder(self._folder, exist_ok=True)
        except OSError as error:
            raise RunFailed(f"{self._folder} cannot be made: {error.strerror or error}") from None
        self._kept[model] = write_tensors(self._folder / f"{round}-{model}.safetensors", tensors)

    def close_round(self, round: int, order: Sequence[str]) -> None:
        """All models of the round are kept: score the workers' in the given order, the federated one last.

        Raises what ended the scoring, as a full disk.
        """
        if self._task.done():
            self._task.result()
        kept, self._kept = self._kept, {}
        if not kept:  # nothing is scored any more
            return
        self._wait(round, [model for model in [*order, FEDERATED] if model in kept], kept, [], {})
        for _ in range(sum(len(entry.waiting) for entry in self._rounds) - max(MOST_WAITING, len(kept))):
            self._skip_oldest()

    def _wait(
        self,
        round: int,
        models: Sequence[str],
        files: Mapping[str, Path],
        lines: list[str],
        missing: dict[str, list[str]],
    ) -> None:
        waiting = deque((model, files[model]) for model in models if model in files)
        place = self._runlog.lines.hold([round, *models])
        self._rounds.append(_Round(round, place, waiting, lines, missing))
        self._news.set()

    async def finish(self) -> None:
        """Wait until every round that was closed has its scores, or the evaluator is gone; it is said for whom."""
        self._last = True
        self._news.set()
        while not (await asyncio.wait([self._task], timeout=self._silence))[0]:
            log.info("Waiting for the scores of %s", self._link.node)
        self._task.result()
        self._tidy()

    async def stop(self) -> None:
        """Give up on the scores that are missing, and say so; their models stay for a run that goes on."""
        tasks = [self._task, self._keeping]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for entry in list(self._rounds):
            self._end(entry, "the run was stopped", keep=True)
        self._tidy()

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    @property
    def _groups(self) -> Sequence[Sequence[int]]:
        return curves.share_groups(self._runlog.groups)

    async def _score_all(self) -> None:
        while self._rounds or not self._last:
            if not self._rounds:
                self._news.clear()
                await self._news.wait()
                continue
            entry = self._rounds[0]
            while entry.waiting and not self._given_up and await self._linked():
                if entry.waiting:  # else the last was given up meanwhile
                    await self._score(entry)
            self._end(entry, f"{self._link.node}: {self._given_up or self._link.trouble}")

    async def _linked(self) -> bool:
        """Wait for the evaluator, until it has been away for ``silence`` seconds. Raises what ended its link."""
        if not self._link.up.is_set():
            up = asyncio.create_task(self._link.up.wait())
            left = self._link.away_since + self._silence - asyncio.get_running_loop().time()
            try:
                await asyncio.wait([up, self._keeping], timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
            finally:
                up.cancel()
            if self._keeping.done():
                self._keeping.result()
        welcome = self._link.welcome
        if self._settings.cuda and welcome is not None and not welcome.cuda and not self._warned:
            self._warned = True
            self._runlog.lines.say(f"--cuda: no GPU on {self._link.node}, which computes on the CPU")
        return self._link.up.is_set()

    async def _score(self, entry: _Round) -> None:
        model, path = entry.waiting.popleft()
        try:
            answer = await self._ask(entry, model, path)
        except asyncio.CancelledError:
            entry.waiting.appendleft((model, path))
            raise
        except (OSError, SafetensorError) as error:
            entry.missing.setdefault(words(error), []).append(model)
            return
        if isinstance(answer, Failure) and answer.kind == "lost":
            entry.lost = entry.lost.after(answer)
            reason = entry.lost.reason("evaluate")
            if not reason:
                entry.waiting.appendleft((model, path))  # it is asked again when it is back
                return
            answer = replace(answer, kind="failed", reason=reason)
        entry.lost = NEVER
        problem = self._taken(entry, model, answer)
        self._strikes = self._strikes + 1 if problem else 0
        if problem:
            entry.missing.setdefault(problem, []).append(model)
        if (
            isinstance(answer, Failure) and answer.code == "later"
        ):  # no strike, and no wait: the next model comes anyway
            self._strikes -= 1
        permanent = isinstance(answer, Failure) and answer.code == "permanent"
        if permanent or self._strikes == STRIKES:
            times = "" if permanent else ", three times in a row"
            self._given_up = f"it is excluded: {problem}{times}"
        path.unlink(missing_ok=True)

    def _taken(self, entry: _Round, model: str, answer: Answer) -> str:
        """Record a score; return what is wrong with the answer, if anything."""
        if isinstance(answer, Failure):
            return answer.reason
        self._remarks.hear(answer.metrics)
        try:
            score = _SCORE.validate_python(answer.metrics)
            self._record(entry, model, score, answer.metrics)
        except ValidationError as error:
            return f"no score: {explain(error)}"
        return ""

    async def _ask(self, entry: _Round, model: str, path: Path) -> Answer:
        entry.tries += 1
        order = Order(
            id=f"{entry.round}/{model}/{entry.tries}",
            worker=self._link.node,
            round=entry.round,
            task="evaluate",
            settings=self._settings.model_dump(),
            answer=0,
            tensors=await asyncio.to_thread(tensor_file.load_file, path),
        )
        return await self._link.ask(order, about=model)

    def _record(self, entry: _Round, model: str, score: Score, reported: Mapping[str, Any]) -> None:
        record = {"round": entry.round, "version": entry.round, "model": model, "accuracy": score.accuracy}
        record |= asdict(score)
        if numbers := metrics.numbers(reported, _OWN):
            record["metrics"] = numbers
        if tables := metrics.tables(reported):
            record["tables"] = tables
        self._runlog.record("score", **record)
        entry.lines += self._told(record)

    def _told(self, record: Record) -> list[str]:
        """Return the lines of a score."""
        return score_lines(record, self._groups)

    def _skip_oldest(self) -> None:
        """Give up on the worker's model that has waited longest; on a federated one only when there is no other."""
        behind = [entry for entry in self._rounds if len(entry.waiting) > 1] or [e for e in self._rounds if e.waiting]
        self._skip(behind[0], "the evaluator is too slow")

    def _skip(self, entry: _Round, reason: str, *, keep: bool = False) -> None:
        model, path = entry.waiting.popleft()
        if not keep:
            path.unlink(missing_ok=True)
        entry.missing.setdefault(reason, []).append(model)

    def _end(self, entry: _Round, reason: str, *, keep: bool = False) -> None:
        while entry.waiting:
            self._skip(entry, reason, keep=keep)
        lines = entry.lines
        if entry.missing:
            missing = "; ".join(f"{', '.join(models)} ({reason})" for reason, models in entry.missing.items())
            lines = [*lines, f"Scores missing in round {entry.round}: {missing}"]
        entry.say("Evaluating models", *lines)
        self._rounds.remove(entry)
