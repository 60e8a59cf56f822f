"""The state that a worker keeps for a run after the loss of its link."""

import torch

import fedws
from fedws.protocol.messages import TaskFailure, TaskRequest, TaskResult
from tests.helpers.node_calls import SCHEMES, begin, order, serving
from tests.helpers.waiting import soon


def remembering(order: TaskRequest, workspace: fedws.TaskContext) -> TaskResult:
    """Control variates, as it were: each answer follows from all that counted before."""
    before = (workspace.load_state(order) or {"c": torch.zeros(1)})["c"]
    after = 3 * before + order.tensors["x"]
    workspace.save_state(order, {"c": after})
    return workspace.build_result(order, {}, {"c": after, "moved": after - before})


async def rounds(url: str, run: str, lose: set[int]) -> list[dict[str, float]]:
    """Five rounds; in some the link is lost before the answer is read, and the round is asked for again."""
    found = []
    channel = await begin(url, run)
    for round_number in range(1, 6):
        await channel.send(order(round_number, round_number - 1))
        if round_number in lose:
            if round_number % 2:
                answered = await soon(channel.receive())  # it was on its way: the worker has kept what it made
                assert isinstance(answered, TaskResult)
            await channel.close()
            channel = await begin(url, run)
            await channel.send(order(round_number, round_number - 1, f"{round_number}/alice/again"))
        report = await soon(channel.receive())
        assert isinstance(report, TaskResult), report
        found.append({name: float(tensor) for name, tensor in report.tensors.items()})
    await channel.close()
    return found


@SCHEMES
async def test_answers_with_state_are_the_same_after_lost_links(scheme: str) -> None:
    async with serving(scheme, remembering) as url:
        wanted = await rounds(url, "one", set())
        assert wanted[-1]["c"] == 3 * (3 * (3 * (3 * 1 + 2) + 3) + 4) + 5
    for lose in ({3}, {2}, {1, 2, 3, 4, 5}):
        async with serving(scheme, remembering) as url:
            assert await rounds(url, "one", lose) == wanted


async def test_a_coordinator_that_goes_on_from_before_finds_the_state_of_then() -> None:
    async with serving("memory", remembering) as url:
        wanted = await rounds(url, "run", set())
        channel = await begin(url, "run")
        for round_number in (4, 5):
            await channel.send(order(round_number, round_number - 1))
            report = await soon(channel.receive())
            assert {name: float(tensor) for name, tensor in report.tensors.items()} == wanted[round_number - 1]


async def test_another_run_finds_no_state() -> None:
    async with serving("memory", remembering) as url:
        first = await rounds(url, "one", set())
        channel = await begin(url, "two")
        await channel.send(order(6, 5))
        answer = await soon(channel.receive())
        assert isinstance(answer, TaskFailure) and answer.kind == "refused"
        assert answer.reason == "alice has lost its state of round 5: it was restarted or served another run"
        await channel.close()
        assert await rounds(url, "two", set()) == first
