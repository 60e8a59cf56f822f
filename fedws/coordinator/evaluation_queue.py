"""The queue of models that the evaluator evaluates while the next rounds train."""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError

from fedws.coordinator.evaluation_round import EvaluationRound, build_record
from fedws.coordinator.link import Link
from fedws.coordinator.one_time_log import OneTimeLog
from fedws.core import private_files, tensor_file
from fedws.core.errors import RunFailed
from fedws.core.task_settings import EvalSettings
from fedws.core.tensors import Tensors
from fedws.core.untrusted_text import get_error_text
from fedws.core.validation import describe_setting_error
from fedws.protocol.messages import Answer, TaskFailure, TaskRequest
from fedws.recording import evaluation_lines
from fedws.recording.evaluation_lines import FEDERATED_MODEL, format_evaluation
from fedws.recording.run_layout import PENDING_EVALUATIONS_DIR
from fedws.recording.run_log import RunLog, log, write_model
from fedws.recording.stored_records import Record
from fedws.scheduling.lost_request_count import NO_LOSSES
from fedws.scheduling.participants import MAX_CONSECUTIVE_FAILURES

_MODEL_FILE_NAME = re.compile(r"(\d+)-(.+)\.safetensors")
MAX_QUEUED_MODELS = 8
"""Maximum number of queued model files; a round that has more models of its own keeps all of them."""


class EvaluationQueue:
    """A queue of model files that wait for the evaluator, and a writer of each round's evaluations in order.

    An evaluator that is disconnected or fails does not stop the training. Missing evaluations are logged in one line.
    """

    def __init__(
        self, link: Link, settings: EvalSettings, peer_timeout: float, run_log: RunLog, one_time_log: OneTimeLog
    ) -> None:
        self._link = link
        self._settings = settings
        self._peer_timeout = peer_timeout
        self._run_log = run_log
        self._one_time_log = one_time_log
        self._folder = run_log.directory / PENDING_EVALUATIONS_DIR
        self._saved_models: dict[str, Path] = {}
        self._rounds: deque[EvaluationRound] = deque()
        self._changed = asyncio.Event()
        self._is_finishing = False
        self._has_warned = False
        self._consecutive_failures = 0
        """Number of consecutive failed requests."""
        self._exclusion_reason = ""
        """Reason why the evaluator gets no further requests; empty unless it is excluded."""
        self._link_task = asyncio.create_task(link.run(lambda event: None))
        self._evaluation_task = asyncio.create_task(self._evaluate_all())

    def restore(self, version: int, pending_lines: Sequence[Mapping[str, Any]]) -> None:
        """Restore the queue of a resumed run, for the rounds up to ``version``, and log the pending lines.

        ``pending_lines`` is the result of ``fedws.recording.ordered_log.OrderedLog.pending`` at the checkpoint.
        Models that were not evaluated are queued again if their files exist. All other files are deleted.
        """
        known = {(record["round"], record["model"]): record for record in self._run_log.records if "model" in record}
        files: dict[int, dict[str, Path]] = {}
        for path in self._folder.glob("*.safetensors*") if self._folder.is_dir() else ():
            match = _MODEL_FILE_NAME.fullmatch(path.name)
            if match is None or int(match[1]) > version or (int(match[1]), match[2]) in known:
                path.unlink()
            else:
                files.setdefault(int(match[1]), {})[match[2]] = path
        for entry in pending_lines:
            if "lines" in entry:
                self._run_log.lines.emit(*entry["lines"])
                continue
            round_number, *models = entry["tag"]
            saved_files = files.get(round_number, {})
            scores = [known[round_number, it] for it in models if (round_number, it) in known]
            lost_models = [model for model in models if model not in saved_files and (round_number, model) not in known]
            missing = {"skipped before the run was resumed": lost_models} if lost_models else {}
            lines = [line for score in scores for line in self._format_lines(score)]
            self._enqueue(round_number, models, saved_files, lines, missing)

    def add_model(self, round_number: int, name: str, tensors: Tensors) -> None:
        """Write a model of the current round to a file. The call blocks, and may come from another thread.

        Raises RunFailed if the folder cannot be created.
        """
        if self._exclusion_reason:
            return
        try:
            private_files.create_dir(self._folder, exist_ok=True)
        except OSError as error:
            raise RunFailed(f"cannot create {self._folder}: {error.strerror or error}") from None
        self._saved_models[name] = write_model(self._folder / f"{round_number}-{name}.safetensors", tensors)

    def close_round(self, round_number: int, workers: Sequence[str]) -> None:
        """Queue all models of the round: those of ``workers`` in the given order, then the federated model.

        Raises the error that ended the evaluation task, for example because the disk is full.
        """
        if self._evaluation_task.done():
            self._evaluation_task.result()
        saved_models, self._saved_models = self._saved_models, {}
        if not saved_models:  # the evaluator is excluded
            return
        models = [model for model in [*workers, FEDERATED_MODEL] if model in saved_models]
        self._enqueue(round_number, models, saved_models, [], {})
        num_queued = sum(len(entry.queued_models) for entry in self._rounds)
        for _ in range(num_queued - max(MAX_QUEUED_MODELS, len(saved_models))):
            self._skip_oldest()

    def _enqueue(
        self,
        round_number: int,
        models: Sequence[str],
        files: Mapping[str, Path],
        lines: list[str],
        missing: dict[str, list[str]],
    ) -> None:
        waiting = deque((model, files[model]) for model in models if model in files)
        place = self._run_log.lines.reserve([round_number, *models])
        self._rounds.append(EvaluationRound(round_number, place, waiting, lines, missing))
        self._changed.set()

    async def finish(self) -> None:
        """Wait until every closed round is evaluated or the evaluator is lost.

        A line is logged for each ``peer_timeout`` seconds of waiting.
        """
        self._is_finishing = True
        self._changed.set()
        while not (await asyncio.wait([self._evaluation_task], timeout=self._peer_timeout))[0]:
            log.info("Waiting for the scores of %s", self._link.node)
        self._evaluation_task.result()
        self._remove_empty_folder()

    async def stop(self) -> None:
        """Stop evaluating, and log the missing evaluations; their model files are kept for a resumed run."""
        tasks = [self._evaluation_task, self._link_task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for entry in list(self._rounds):
            self._finish_round(entry, "the run was stopped", keep_files=True)
        self._remove_empty_folder()

    def _remove_empty_folder(self) -> None:
        with contextlib.suppress(OSError):
            self._folder.rmdir()

    @property
    def _label_groups(self) -> Sequence[Sequence[int]]:
        return evaluation_lines.distinct_label_sets(self._run_log.worker_labels)

    async def _evaluate_all(self) -> None:
        while self._rounds or not self._is_finishing:
            if not self._rounds:
                self._changed.clear()
                await self._changed.wait()
                continue
            entry = self._rounds[0]
            while entry.queued_models and not self._exclusion_reason and await self._wait_for_link():
                if entry.queued_models:  # the last one may have been skipped during the wait
                    await self._evaluate_next(entry)
            self._finish_round(entry, f"{self._link.node}: {self._exclusion_reason or self._link.last_error}")

    async def _wait_for_link(self) -> bool:
        """Wait for the evaluator until it has been disconnected for ``peer_timeout`` seconds.

        Return True if it is connected. Raises the error that ended its link.
        """
        if not self._link.connected.is_set():
            connecting = asyncio.create_task(self._link.connected.wait())
            seconds_left = self._link.disconnected_since + self._peer_timeout - asyncio.get_running_loop().time()
            try:
                await asyncio.wait(
                    [connecting, self._link_task], timeout=max(0.0, seconds_left), return_when=asyncio.FIRST_COMPLETED
                )
            finally:
                connecting.cancel()
            if self._link_task.done():
                self._link_task.result()
        welcome = self._link.welcome
        if self._settings.cuda and welcome is not None and not welcome.cuda and not self._has_warned:
            self._has_warned = True
            self._run_log.lines.emit(f"--cuda: no GPU on {self._link.node}, which computes on the CPU")
        return self._link.connected.is_set()

    async def _evaluate_next(self, entry: EvaluationRound) -> None:
        model, path = entry.queued_models.popleft()
        try:
            answer = await self._request_evaluation(entry, model, path)
        except asyncio.CancelledError:
            entry.queued_models.appendleft((model, path))
            raise
        except (OSError, SafetensorError) as error:
            entry.missing_models.setdefault(get_error_text(error), []).append(model)
            return
        if isinstance(answer, TaskFailure) and answer.kind == "lost":
            entry.lost_request_count = entry.lost_request_count.add(answer)
            reason = entry.lost_request_count.failure_reason("evaluate")
            if not reason:
                entry.queued_models.appendleft((model, path))  # retried once the evaluator is connected again
                return
            answer = replace(answer, kind="failed", reason=reason)
        entry.lost_request_count = NO_LOSSES
        problem = self._handle_answer(entry, model, answer)
        self._consecutive_failures = self._consecutive_failures + 1 if problem else 0
        if problem:
            entry.missing_models.setdefault(problem, []).append(model)
        if isinstance(answer, TaskFailure) and answer.code == "retry_later":
            self._consecutive_failures -= 1  # not a failure; the next request is for another model anyway
        permanent = isinstance(answer, TaskFailure) and answer.code == "permanent"
        if permanent or self._consecutive_failures == MAX_CONSECUTIVE_FAILURES:
            times = "" if permanent else ", three times in a row"
            self._exclusion_reason = f"it is excluded: {problem}{times}"
        path.unlink(missing_ok=True)

    def _handle_answer(self, entry: EvaluationRound, model: str, answer: Answer) -> str:
        """Record an evaluation. Return the problem with the answer, or an empty string."""
        if isinstance(answer, TaskFailure):
            return answer.reason
        self._one_time_log.log_warnings(answer.metrics)
        try:
            record = build_record(entry.round, model, answer.metrics)
        except ValidationError as error:
            return f"invalid evaluation: {describe_setting_error(error)}"
        self._run_log.write_record("evaluation", **record)
        entry.log_lines += self._format_lines(record)
        return ""

    async def _request_evaluation(self, entry: EvaluationRound, model: str, path: Path) -> Answer:
        entry.num_requests += 1
        request = TaskRequest(
            request_id=f"{entry.round}/{model}/{entry.num_requests}",
            worker=self._link.node,
            round=entry.round,
            task="evaluate",
            settings=self._settings.model_dump(),
            max_result_bytes=0,
            tensors=await asyncio.to_thread(tensor_file.load_tensors, path),
        )
        return await self._link.execute(request, subject=model)

    def _format_lines(self, record: Record) -> list[str]:
        """Return the log lines of an evaluation."""
        return format_evaluation(record, self._label_groups)

    def _skip_oldest(self) -> None:
        """Skip the worker's model that has waited longest, or a federated model if only those are queued."""
        behind = [entry for entry in self._rounds if len(entry.queued_models) > 1] or [
            e for e in self._rounds if e.queued_models
        ]
        behind[0].skip_model("the evaluator is too slow")

    def _finish_round(self, entry: EvaluationRound, reason: str, *, keep_files: bool = False) -> None:
        while entry.queued_models:
            entry.skip_model(reason, keep_file=keep_files)
        lines = entry.log_lines
        if entry.missing_models:
            missing = "; ".join(f"{', '.join(models)} ({reason})" for reason, models in entry.missing_models.items())
            lines = [*lines, f"Scores missing in round {entry.round}: {missing}"]
        entry.emit("Evaluating models", *lines)
        self._rounds.remove(entry)
