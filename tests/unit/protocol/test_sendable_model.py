"""A model that cannot travel is one line when the run is prepared, before any node is connected."""

import bisect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fedws
from fedws.coordinator.setup import prepare_run
from fedws.core import registry
from fedws.core.errors import UsageError
from fedws.core.limits import MAX_HEADER_BYTES
from fedws.core.plan import build_plan
from fedws.protocol import sendable_model
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import TaskRequest
from fedws.scheduling.base import TaskSpec
from fedws.simulation.plans import build_plans

SETTINGS = {"dataset": "digits", "workers": {"alice": "memory://alice", "bob": "memory://bob"}, "evaluator": {}}


class Net(nn.Module):
    """A layer, and a tensor or whatever else a test wants."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(2, 2)
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_buffer(name, part)


class Extra(nn.Module):
    def __init__(self, state: Any) -> None:
        super().__init__()
        self._state = state

    def get_extra_state(self) -> Any:
        return self._state

    def set_extra_state(self, state: Any) -> None:
        self._state = state


class Named(nn.Module):
    """Tensors under names that attributes cannot have."""

    def __init__(self, *names: str, like: torch.Tensor | None = None) -> None:
        super().__init__()
        self.names, self.like = names, torch.zeros(1) if like is None else like
        self.dense = nn.Linear(1, 1)  # for the optimizer

    def state_dict(self, *given: Any, **options: Any) -> Any:
        return dict.fromkeys(self.names, self.like)


class Own(torch.Tensor):
    """A subclass of its own."""


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], str]:
    """Register a factory that gives this; return its name."""

    def made(found: Any) -> str:
        monkeypatch.setitem(registry._pieces, ("model", "odd"), lambda: found)
        return "odd"

    return made


NOT_MODULES = [
    (None, "None"),
    (Net, "the class Net"),
    ({"w": torch.zeros(1)}, "a dict"),
    (torch.zeros(1), "a Tensor"),
]
BITS = torch.zeros(3, dtype=torch.uint8).view(torch.bits8)
CANNOT = [
    (
        Extra({"version": 2}),
        "cannot send '_extra_state': it is a dict, not a tensor, from get_extra_state of Extra; ",
    ),
    (
        Net(deep=nn.Sequential(Extra(b"pickled"))),
        "cannot send 'deep.0._extra_state': it is a bytes, not a tensor, from get_extra_state of Extra; return a",
    ),
    (Named("w", like=3), "cannot send 'w': it is a int, not a tensor; leave it out of the state dict"),  # type: ignore[arg-type]
    (Net(lazy=nn.LazyLinear(3)), "'lazy.weight' is not initialised: its module is lazy; pass a sample through the"),
    (Net(lazy=nn.LazyBatchNorm1d()), "'lazy.weight' is not initialised: its module is lazy; pass a sample"),
    (Net(q=BITS), "cannot send 'q': it has the dtype torch.bits8; use one of float16, "),
    (
        Net(s=torch.eye(3).to_sparse()),
        "cannot send 's': it has the layout torch.sparse_coo, and only strided tensors can be sent; ",
    ),
    (
        Net(n=torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged)),
        "cannot send 'n': it is a NestedTensor, a subclass of torch.Tensor; use a plain tensor",
    ),
    (Net(m=torch.ones(3, device="meta")), "cannot send 'm': it is on the meta device and has no values; "),
    (Net(o=torch.ones(3).as_subclass(Own)), "cannot send 'o': it is a Own, a subclass of torch.Tensor; use a plain"),
    (Net(d=torch.ones([1] * 17)), "cannot send 'd': it has 17 dimensions; use at most 16"),
    (Net(e=torch.ones(2**30, 0).expand(2**30, 2**30, 0)), " cannot send its tensors: tensor 'e': shape "),
    (Named("../w"), "cannot send '../w': a name must not look like a path or contain control characters; rename it"),
    (Named("a//b"), "cannot send 'a//b': a name must not look like a path or contain control characters; rename it"),
    (Named("NaN"), "cannot send 'NaN': a name must not be NaN; rename it"),
    (Named("w" * 257), "': a name must have 1 to 256 characters; rename it"),
    (Named("\ud800"), " cannot send its tensors: name: Input should be a valid string"),
    (Named("__metadata__"), "cannot send '__metadata__': safetensors reserves this name; rename it"),
    (Named(*map(str, range(10_001))), "cannot send 10001 tensors: a message holds at most 10000; stack some of"),
    (
        Named(*(f"{number:0100}" for number in range(4_000))),
        f"of its 4000 tensors take 552012 bytes, which exceeds the limit of {2**19 - 2**14} bytes; use shorter",
    ),
]


def assert_one_line(caught: pytest.ExceptionInfo[UsageError], text: str) -> None:
    said = str(caught.value)
    assert said.startswith("model odd") and text in said and "\n" not in said, said
    assert len(said) < 600


@pytest.mark.parametrize(("found", "what"), NOT_MODULES, ids=[what for _, what in NOT_MODULES])
def test_a_factory_that_returns_no_module_is_named(model: Callable[[Any], str], found: Any, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        prepare_run(build_plan({**SETTINGS, "model": model(found)}))
    assert str(caught.value) == f"model odd: its factory returned {what}; return a torch.nn.Module"


@pytest.mark.parametrize(("module", "text"), CANNOT, ids=[text[:40] for _, text in CANNOT])
def test_what_cannot_travel_is_said_when_a_run_is_prepared(
    model: Callable[[Any], str], module: nn.Module, text: str
) -> None:
    with pytest.raises(UsageError) as caught:
        prepare_run(build_plan({**SETTINGS, "model": model(module)}))
    assert_one_line(caught, text)


def test_a_run_from_python_and_a_simulation_end_before_anybody_is_dialled(model: Callable[[Any], str]) -> None:
    """No node is served here: a run that went on would wait for them."""
    spec = model(CANNOT[0][0])
    with pytest.raises(UsageError) as caught:
        fedws.run_sync(**{**SETTINGS, "model": spec})
    assert_one_line(caught, CANNOT[0][1])
    with pytest.raises(UsageError) as caught:
        build_plans(["fedavg"], {"dataset": "digits", "model": spec}, ["alice", "bob"])
    assert_one_line(caught, CANNOT[0][1])


# --------------------------------------------------------------------------- what can travel


def tied() -> Net:
    """One weight under two names, a buffer that is a view of it, one that repeats a number, and a conjugate."""
    module, other = Net(), nn.Linear(2, 2)
    module.other = other
    other.weight = module.dense.weight
    module.register_buffer("view", module.dense.weight.detach().t()[0])
    module.register_buffer("same", torch.tensor(3.0).expand(4, 5))
    module.register_buffer("conjugate", torch.tensor([1 + 2j]).conj())
    return module


CAN = [
    tied(),
    Net(extra=Extra(torch.arange(3))),
    Net(towers=nn.ModuleDict({"sensor/1": nn.Linear(1, 1), "sensor/": nn.Linear(1, 1)})),
    Net(e=torch.ones(0, 3), s=torch.tensor(1), d=torch.ones([1] * 16)),
    Net(b=nn.LSTM(2, 2), c=nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))),
    Named(*map(str, range(9_000)), like=torch.zeros(())),
]


@pytest.mark.parametrize("module", CAN, ids=lambda module: type(module).__name__)
def test_what_can_travel_arrives_as_it_is(model: Callable[[Any], str], module: nn.Module) -> None:
    _, _, initial = prepare_run(build_plan({**SETTINGS, "model": model(module)}))
    decoder = Decoder()
    for piece in encode_message(
        TaskRequest(request_id="1", worker="a", round=1, task="t", tensors=initial)
    ).fragments():
        decoder.feed(piece)
    message = decoder.build_message()
    assert isinstance(message, TaskRequest)
    state = module.state_dict()
    assert list(message.tensors) == list(state) and all(torch.equal(message.tensors[n], t) for n, t in state.items())


def test_what_is_let_through_leaves_room_for_the_fields_of_a_message() -> None:
    """At the limit of the check, with more settings than an order has, the message still fits."""

    def fits(count: int) -> bool:
        try:
            sendable_model.check_fits_message("odd", {f"{number:0100}": torch.zeros(1) for number in range(count)})
        except UsageError:
            return False
        return True

    most = bisect.bisect_left(range(10_000), True, key=lambda count: not fits(count)) - 1
    tensors = {f"{number:0100}": torch.zeros(1) for number in range(most)}
    settings = {f"setting {number}": "x" * 400 for number in range(30)}
    order = TaskRequest(request_id="1", worker="a" * 64, round=1, task="t", settings=settings, tensors=tensors)
    assert MAX_HEADER_BYTES - 2**13 < len(encode_message(order).head) <= MAX_HEADER_BYTES


# --------------------------------------------------------------------------- what algorithms add


def test_the_names_of_gradients_must_travel_too(model: Callable[[Any], str]) -> None:
    spec = model(Net(**{"w" * 245: nn.Linear(1, 1)}))
    prepare_run(build_plan({**SETTINGS, "model": spec, "algorithm": "fedavg"}))
    with pytest.raises(UsageError) as caught:
        prepare_run(build_plan({**SETTINGS, "model": spec, "algorithm": "fedsgd"}))
    assert_one_line(caught, "www': a name must have 1 to 256 characters; rename it"[3:])


def test_what_an_algorithm_sends_beside_the_model_must_travel_too(
    model: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Double:
        """As those that send control variates."""

        def __init__(self, training: Any) -> None: ...

        def configure(self, model: Any, worker: str, round_number: int) -> TaskSpec:
            return TaskSpec("t", {}, {**model, **{f"control:{name}": tensor for name, tensor in model.items()}})

        def server_update(self, model: Any, aggregated: Any, round_number: int) -> Any:
            return aggregated

    monkeypatch.setitem(registry._pieces, ("algorithm", "double"), Double)
    settings = {**SETTINGS, "model": model(Named(*map(str, range(6_000))))}
    prepare_run(build_plan(settings))
    with pytest.raises(UsageError) as caught:
        prepare_run(build_plan({**settings, "algorithm": "double"}))
    assert_one_line(caught, "cannot send 12000 tensors")


def test_several_extractors_must_travel_together(model: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sendable_model, "MAX_MESSAGE_TENSORS", 9
    )  # four of the model, and two of each further extractor
    spec = model(nn.Sequential(nn.Linear(784, 3), nn.ReLU(), nn.Linear(3, 10), nn.LogSoftmax(1)))
    settings = {**SETTINGS, "model": spec}
    prepare_run(build_plan({**settings, "algorithm": "mistnet:split_at=1,extractor=random,num_extractors=3"}))
    with pytest.raises(UsageError) as caught:
        prepare_run(build_plan({**settings, "algorithm": "mistnet:split_at=1,extractor=random,num_extractors=4"}))
    assert_one_line(caught, "cannot send 10 tensors")
