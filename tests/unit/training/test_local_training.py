import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fedws.core.errors import TaskCancelled, TaskError, UnknownName
from fedws.core.seeds import request_seed, seed_generators
from fedws.core.task_settings import EvalSettings, TrainSettings
from fedws.protocol.evaluation_result import EvalResult
from fedws.protocol.messages import TaskRequest
from fedws.training import objective
from fedws.training.evaluation import evaluate
from fedws.training.local_training import compute_gradient, train
from fedws.training.model_building import build_model
from fedws.training.task_context import TaskContext


class Points:
    """Points of a plane with two classes, or a value; the least that a data set can be."""

    def __init__(self, samples: int, regression: bool = False) -> None:
        random = torch.Generator().manual_seed(samples)
        self.inputs = torch.randn(samples, 2, generator=random)
        self.answers = (self.inputs.sum(1) > 0).long() if not regression else self.inputs.sum(1)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[index], self.answers[index]


def net() -> nn.Module:
    """With everything that makes a state: parameters, batch norm's buffers, and chance (dropout)."""
    with seed_generators(3):
        return nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 2), nn.LogSoftmax(dim=1)
        )


def space(samples: int = 50, **options: Any) -> TaskContext:
    return TaskContext("alice", "points", Points(samples), **options)


def training(**options: Any) -> TrainSettings:
    return TrainSettings(model="any", dataset="points", **options)


def scoring(**options: Any) -> EvalSettings:
    return EvalSettings(**{"model": "any", "loss": "nll", "dataset": "points", **options})


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[key], theirs[key]) for key in mine)


# --------------------------------------------------------------------------- seeds


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((1, "alice", 1), 0xF942780923CED4C9), ((42, "bob", 17), 0x804A19CEE9BF191D)],
)
def test_the_seed_of_an_order_is_the_one_that_sha256sum_gives(given: tuple[int, str, int], wanted: int) -> None:
    """``printf 1/alice/1 | sha256sum | cut -c1-16``, read as a number."""
    assert request_seed(*given) == wanted


def test_seeds_differ_by_run_worker_and_round() -> None:
    seeds = {
        request_seed(run, worker, round_number) for run in (1, 2) for worker in ("a", "b") for round_number in (1, 2)
    }
    assert len(seeds) == 8 and all(0 <= seed < 2**64 for seed in seeds)


def test_seeding_gives_the_global_generator_back_as_it_was() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with seed_generators(1):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(RuntimeError), seed_generators(1):
        torch.rand(3)
        raise RuntimeError
    assert torch.equal(torch.get_rng_state(), before)


@given(st.integers(0, 2**64 - 1))
@settings(max_examples=20, deadline=None)
def test_any_seed_of_64_bits_decides_both_generators(seed: int) -> None:
    with seed_generators(seed) as generator:
        one = torch.rand(3), torch.rand(3, generator=generator)
    torch.manual_seed(seed)
    assert torch.equal(torch.rand(3), one[0])
    with seed_generators(seed) as generator:
        torch.rand(5)  # drawing from one does not move the other
        assert torch.equal(torch.rand(3, generator=generator), one[1])


def test_seeded_blocks_of_two_threads_take_turns() -> None:
    begun, done = threading.Event(), threading.Event()
    wanted, found = torch.Generator().manual_seed(2), []

    def other() -> None:
        begun.set()
        with seed_generators(2):
            found.append(torch.rand(3))
        done.set()

    with seed_generators(1):
        thread = threading.Thread(target=other)
        thread.start()
        assert begun.wait(60)
        assert not done.wait(0.05)
        one = torch.rand(3)
    thread.join()
    assert torch.equal(one, torch.rand(3, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(found[0], torch.rand(3, generator=wanted))


def test_a_model_is_drawn_from_its_seed_alone() -> None:
    torch.manual_seed(1)
    one = build_model("linear:inputs=2,outputs=2", 5)
    torch.manual_seed(2)
    assert same(one, build_model("linear:inputs=2,outputs=2", 5))
    assert not same(one, build_model("linear:inputs=2,outputs=2", 6))
    with pytest.raises(UnknownName):
        build_model("no_such_model", 1)


# --------------------------------------------------------------------------- training


def by_hand(
    module: nn.Module, data: Points, size: int, most: int, epochs: int, lr: float, seed: int
) -> tuple[float, int]:
    """What McMahan's ClientUpdate says, without any of fedws."""
    torch.manual_seed(seed)
    shuffle = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(module.parameters(), lr)
    module.train()
    taken, total, samples = 0, 0.0, 0
    for _ in range(epochs):
        order = torch.randperm(len(data), generator=shuffle).tolist()
        for start in range(0, len(order), size):
            if taken == most:
                return total / samples, samples
            taken += 1
            chosen = order[start : start + size]
            inputs = torch.stack([data[index][0] for index in chosen])
            targets = torch.stack([data[index][1] for index in chosen])
            optimizer.zero_grad()
            loss = functional.nll_loss(module(inputs), targets)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
            samples += len(chosen)
    return total / samples, samples


@pytest.mark.parametrize(
    ("samples", "size", "most", "epochs"),
    [
        (50, 8, 3, 1),  # the limit ends the epoch
        (50, 8, 100, 1),  # a last batch of 2
        (48, 8, 6, 1),  # the limit is the epoch
        (50, 8, 100, 3),
        (50, 8, 9, 3),  # the limit is within the second epoch
        (48, 8, 6, 2),  # the limit is where the second epoch begins
        (50, 8, 1, 4),
        (50, 8, 7, 4),
        (50, 64, 2, 3),  # a batch takes all
    ],
)
def test_training_is_the_loop_of_the_paper_to_the_bit(samples: int, size: int, most: int, epochs: int) -> None:
    mine, wanted = net(), net()
    work = space(samples)
    done = train(mine, work, training(batch_size=size, max_local_batches=most, epochs=epochs, lr=0.3), seed=11)
    torch.random.manual_seed(0)
    loss, used = by_hand(wanted, Points(samples), size, most, epochs, 0.3, seed=11)
    assert same(mine, wanted) and all(torch.isfinite(value).all() for value in mine.state_dict().values())
    assert (done.num_examples, done.device) == (used, "cpu") and done.loss == pytest.approx(loss, rel=1e-6)


def test_training_depends_on_the_seed_and_not_on_the_global_generator() -> None:
    modules = [net() for _ in range(3)]
    for module, seed in zip(modules, (1, 1, 2), strict=True):
        torch.rand(1)
        before = torch.get_rng_state()
        train(module, space(), training(), seed)
        assert torch.equal(torch.get_rng_state(), before)
    assert same(modules[0], modules[1]) and not same(modules[0], modules[2])


def test_the_optimizer_and_the_loss_are_those_of_the_settings() -> None:
    mine, wanted = net(), net()
    train(mine, space(8), training(optimizer="adam:beta1=0.5", loss="cross_entropy", batch_size=8), 1)
    torch.manual_seed(1)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(wanted.parameters(), 0.1, betas=(0.5, 0.999))
    functional.cross_entropy(wanted.train()(Points(8).inputs[order]), Points(8).answers[order]).backward()
    optimizer.step()
    assert same(mine, wanted)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"loss": "nil"}, "unknown loss 'nil': did you mean nll?"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg': did you mean sgd?"),
        ({"optimizer": "sgd:momentum=x"}, "optimizer sgd: momentum: "),
    ],
)
@pytest.mark.parametrize("learn", [train, compute_gradient])
def test_pieces_that_are_not_there_are_a_task_error(
    learn: Callable[..., Any], options: dict[str, str], text: str
) -> None:
    if learn is compute_gradient and "optimizer" in options:
        options, text = {"loss": "nil"}, "unknown loss"
    with pytest.raises(TaskError, match=text.replace("?", r"\?")):
        learn(net(), space(), training(**options), 1)


@pytest.mark.parametrize("learn", [train, compute_gradient])
def test_a_node_without_samples_cannot_train(learn: Callable[..., Any]) -> None:
    with pytest.raises(TaskError, match="alice holds no samples"):
        learn(net(), space(0), training(), 1)


class Telling(Points):
    """Tells the node to stop when a sample of the third batch is read."""

    def __init__(self, samples: int, stop: threading.Event) -> None:
        super().__init__(samples)
        self.stop, self.read = stop, 0

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.read += 1
        if self.read == 17:
            self.stop.set()
        return super().__getitem__(index)


@pytest.mark.parametrize("what", [train, compute_gradient, evaluate])
def test_a_task_that_is_told_to_stop_stops_at_the_next_batch(what: Callable[..., Any]) -> None:
    stop = threading.Event()
    data = Telling(800, stop)
    work = TaskContext("alice", "points", data, stop)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(TaskCancelled):
        if what is evaluate:
            evaluate(net(), work, scoring(batch_size=8))
        else:
            what(net(), work, training(batch_size=8, max_local_batches=100), 1)
    assert data.read == 24
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gradient_is_that_of_the_mean_over_the_samples() -> None:
    mine = nn.Sequential(nn.Linear(2, 2), nn.LogSoftmax(dim=1))
    data = Points(50)
    done = compute_gradient(mine, space(), training(batch_size=8, max_local_batches=4), 5)
    chosen = torch.randperm(50, generator=torch.Generator().manual_seed(5))[:32]
    wanted = [parameter.detach().clone().double().requires_grad_() for parameter in mine.parameters()]
    outputs = functional.log_softmax(data.inputs[chosen].double() @ wanted[0].t() + wanted[1], dim=1)
    loss = functional.nll_loss(outputs, data.answers[chosen])
    loss.backward()
    assert done.num_examples == 32 and done.loss == pytest.approx(loss.item())
    for parameter, double in zip(mine.parameters(), wanted, strict=True):
        assert parameter.grad is not None and double.grad is not None
        assert torch.allclose(parameter.grad.double(), double.grad, atol=1e-7)


# --------------------------------------------------------------------------- scoring


def oracle(module: nn.Module, data: Points) -> tuple[float, int, list[int]]:
    """Loss, correct and histogram of a classifier, in float64 and all at once."""
    with torch.no_grad():
        outputs = module.eval()(data.inputs)
    each = -outputs.double()[torch.arange(len(data)), data.answers]
    predicted = outputs.argmax(1)
    return float(each.mean()), int((predicted == data.answers).sum()), predicted.bincount(minlength=2).tolist()


@pytest.mark.parametrize("size", [1, 7, 50, 128])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_score_is_the_true_mean_over_samples(size: int, threads: int) -> None:
    found = evaluate(net(), space(threads=threads), scoring(batch_size=size))
    loss, correct, histogram = oracle(net(), Points(50))
    assert (found.num_examples, found.num_correct, found.predicted_label_counts) == (50, correct, histogram)
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.accuracy == correct / 50 and sum(histogram) == 50


@pytest.mark.parametrize("size", [1, 3, 16])
def test_a_score_is_the_same_to_the_bit_with_any_number_of_threads(size: int) -> None:
    scores = [evaluate(net(), space(333, threads=threads), scoring(batch_size=size)) for threads in (1, 2, 3)]
    assert scores[0] == scores[1] == scores[2]


class Constant(Points):
    """Inputs are the numbers of the samples; the answers are all the same."""

    def __init__(self, samples: int, answer: float) -> None:
        super().__init__(samples)
        self.inputs, self.answers = torch.arange(samples).float(), torch.full((samples,), answer)


class Zero(nn.Module):
    """Nothing, for any input."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(inputs)


def test_a_mean_of_many_batches_does_not_drift() -> None:
    """Losses are added in float64: 1,000 times 0.01 in float32 is 9.9998."""
    found = evaluate(Zero(), TaskContext("a", "points", Constant(1000, 0.1)), scoring(loss="mse", batch_size=1))
    assert found.loss == pytest.approx(float(torch.tensor(0.1) ** 2), rel=1e-12)


def test_losses_are_added_in_the_order_of_the_batches_whoever_is_first() -> None:
    """The first batch, done after two others, has so large a loss that each of them vanishes beside it, not both."""
    others = threading.Barrier(2)

    class Slow(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            number = int(inputs[0])
            if number in (0, 2):
                others.wait(60)
            if number == 0:
                others.wait(60)
            if number == 3:
                others.wait(60)
            return torch.full_like(inputs, 2.0**27 if number == 0 else 1.5**0.5)

    found = evaluate(Slow(), TaskContext("a", "points", Constant(4, 0.0), threads=2), scoring(loss="mse", batch_size=1))
    assert found.loss == 2.0**54 / 4


def test_scoring_changes_nothing() -> None:
    module, before = net(), net()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    evaluate(module, space(), scoring())
    assert same(module, before) and torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None and not parameter.is_inference() for parameter in module.parameters())


@pytest.mark.parametrize("shape", [(2, 1), (2,)])
def test_a_regression_has_a_loss_and_no_accuracy(shape: tuple[int, ...]) -> None:
    class Sum(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 2 * inputs.sum(1, keepdim=shape == (2, 1))

    data = Points(50, regression=True)
    found = evaluate(Sum(), TaskContext("a", "points", data), scoring(loss="mse", batch_size=8))
    assert found == EvalResult(50, found.loss) and found.accuracy is None
    assert found.loss == pytest.approx(float((data.answers.double() ** 2).mean()), rel=1e-6)


def test_outputs_that_are_no_classes_have_no_accuracy() -> None:
    class Wide(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs.unsqueeze(2).expand(-1, -1, 3).log_softmax(1)

    class Many(Points):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            return self.inputs[index], torch.zeros(3, dtype=torch.int64)

    found = evaluate(Wide(), TaskContext("a", "points", Many(9)), scoring())
    assert found.num_correct is None and found.num_examples == 9 and math.isfinite(found.loss)


def test_classes_that_are_never_predicted_are_counted_too() -> None:
    class Third(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.tensor([0.0, 0.0, 5.0, 0.0]).expand(len(inputs), 4).log_softmax(1)

    found = evaluate(Third(), space(), scoring(batch_size=16))
    assert found.predicted_label_counts == [0, 0, 50, 0] and found.num_correct == 0


def test_a_score_of_nothing_is_refused() -> None:
    with pytest.raises(TaskError, match="alice holds no samples"):
        evaluate(net(), space(0), scoring())


def test_an_unknown_loss_is_a_task_error() -> None:
    with pytest.raises(TaskError, match="unknown loss"):
        evaluate(net(), space(), scoring(loss="nil"))


@pytest.mark.parametrize("threads", [1, 3])
def test_what_a_model_raises_comes_out(threads: int) -> None:
    class Broken(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise KeyError("no")

    with pytest.raises(KeyError):
        evaluate(Broken(), space(threads=threads), scoring(batch_size=4))


def test_a_data_set_is_read_by_one_thread_at_a_time() -> None:
    class Alone(Points):
        def __init__(self) -> None:
            super().__init__(60)
            self.turn = threading.Lock()

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            assert self.turn.acquire(blocking=False)
            try:
                threading.Event().wait(1e-4)  # lets another thread in, if one may come
                return super().__getitem__(index)
            finally:
                self.turn.release()

    assert evaluate(net(), TaskContext("a", "points", Alone(), threads=3), scoring(batch_size=2)).num_examples == 60


# --------------------------------------------------------------------------- workspace


def order(**settings: Any) -> TaskRequest:
    return TaskRequest(request_id="1", worker="alice", round=1, task="t", settings=settings)


def test_settings_are_checked() -> None:
    assert space().parse_settings(order(model="m", dataset="points"), TrainSettings) == training().model_copy(
        update={"model": "m"}
    )
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"model": "m", "dataset": "mnist"}, "alice holds points, not mnist"),
        ({"dataset": "points"}, "settings: model: Field required"),
        ({"model": "m", "dataset": "points", "lr": "1"}, "settings: lr: Input should be a valid number, not '1'"),
        ({"model": "m", "dataset": "points", "sudo": 1}, "settings: sudo: there is no such setting"),
    ]
    for wrong, text in wrongs:
        with pytest.raises(TaskError) as caught:
            space().parse_settings(order(**wrong), TrainSettings)
        assert str(caught.value) == text


def test_a_module_holds_a_copy_of_the_tensors() -> None:
    spec = "linear:inputs=2,outputs=2"
    tensors = {key: torch.ones_like(value) for key, value in build_model(spec, 1).state_dict().items()}
    module = space().build_model(spec, tensors)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert all(bool((tensor == 1).all()) for tensor in tensors.values())


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (
            "linear:inputs=2,outputs=3",
            "model linear:inputs=2,outputs=3 is another one on alice: dense.weight has shape",
        ),
        ("mlp", "model mlp is another one on alice: fc1.weight is missing"),
        ("linear:inputs=-1", "linear: -1 x 10 weights"),
        ("linearr", "unknown model 'linearr': did you mean linear?"),
        ("linear:=", "is not key=value"),
    ],
)
def test_a_foreign_model_is_a_task_error(spec: str, text: str) -> None:
    with pytest.raises(TaskError) as caught:
        space().build_model(spec, build_model("linear:inputs=2,outputs=2", 1).state_dict())
    assert text in str(caught.value)


def test_the_cpu_is_used_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert objective.select_device(True) == objective.select_device(False) == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert objective.select_device(True) == torch.device("cuda") and objective.select_device(False) == torch.device(
        "cpu"
    )
