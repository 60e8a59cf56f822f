"""Every registered model: what sending, averaging and restarting need of it."""

import pytest
import torch

from fedws.core import registry
from fedws.core.tensors import DTYPE_NAMES, copy_to_cpu, find_mismatch
from fedws.privacy.policy import Policy
from fedws.split_learning import model_split
from fedws.training import model_building
from fedws.training.model_building import build_outline, count_elements

NAMES_OF_MODELS = registry.list_pieces("model")
CUTS = [
    (name, cut)
    for name in NAMES_OF_MODELS
    for cut in model_split.find_split_points(registry.build_piece("model", name))
]
SHAPES = ((1, 28, 28), (3, 32, 32), (784,))


def output(module: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """What it makes of the first kind of input that it takes."""
    for shape in SHAPES:
        inputs = torch.randn(6, *shape, generator=torch.Generator().manual_seed(1))
        try:
            return inputs, module(inputs)
        except RuntimeError:
            continue
    raise AssertionError(f"it takes inputs of none of the shapes {SHAPES}; add its own")


@pytest.mark.parametrize("name", NAMES_OF_MODELS)
def test_the_seed_alone_decides_the_weights(name: str) -> None:
    torch.manual_seed(5)
    one = model_building.build_model(name, 1).state_dict()
    torch.manual_seed(6)
    same, other = model_building.build_model(name, 1).state_dict(), model_building.build_model(name, 2).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES_OF_MODELS)
def test_it_can_be_built_without_memory_and_is_then_the_same_but_for_the_values(name: str) -> None:
    """Its factory must not read a value: a node compares a request with what this gives before it builds a model."""
    found, real = build_outline(name), model_building.build_model(name, 1)
    assert all(tensor.is_meta for tensor in (*found.parameters(), *found.buffers()))
    assert find_mismatch(real.state_dict(), found.state_dict()) == ""
    assert count_elements(found) == count_elements(real) <= Policy().max_parameters


@pytest.mark.parametrize("name", NAMES_OF_MODELS)
def test_the_state_may_cross_the_wire_and_comes_back(name: str) -> None:
    module = model_building.build_model(name, 1).train()
    output(module)  # buffers move too
    state = copy_to_cpu(module.state_dict())
    assert state and all(tensor.dtype in DTYPE_NAMES for tensor in state.values())
    other = model_building.build_model(name, 2)
    assert find_mismatch(state, other.state_dict()) == ""
    other.load_state_dict(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in other.state_dict().items())
    assert torch.equal(output(module.eval())[1], output(other.eval())[1])


@pytest.mark.parametrize("name", NAMES_OF_MODELS)
def test_every_parameter_learns(name: str) -> None:
    module = model_building.build_model(name, 1).train()
    _, outputs = output(module)
    assert outputs.shape[0] == 6 and torch.isfinite(outputs).all()
    outputs[:, 0].sum().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", NAMES_OF_MODELS)
def test_scoring_does_not_depend_on_the_batch(name: str) -> None:
    module = model_building.build_model(name, 1).eval()
    inputs, outputs = output(module)
    assert torch.allclose(torch.cat([module(inputs[:2]), module(inputs[2:])]), outputs, atol=1e-5)


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(("name", "cut"), CUTS)
def test_extractor_and_head_are_the_model(name: str, cut: str, mode: bool) -> None:
    whole, halved = model_building.build_model(name, 1).train(mode), model_building.build_model(name, 1)
    extractor, head = (half.train(mode) for half in model_split.split_model(halved, cut))
    torch.manual_seed(3)
    inputs, outputs = output(whole)
    torch.manual_seed(3)
    assert torch.equal(head(extractor(inputs)), outputs)
    assert {**extractor.state_dict(), **head.state_dict()}.keys() == whole.state_dict().keys()
    assert not extractor.state_dict().keys() & head.state_dict().keys()
    for half in (extractor, head):  # what batch norm has seen, too
        assert half.state_dict() and all(
            torch.equal(tensor, whole.state_dict()[key]) for key, tensor in half.state_dict().items()
        )


def test_models_with_two_layers_can_be_cut() -> None:
    assert {name for name, _ in CUTS} == set(NAMES_OF_MODELS) - {"linear"}
    assert ("mnist_cnn", "pool1") in CUTS and ("mlp", "relu1") in CUTS and ("cifar_cnn", "features.6") in CUTS
