"""Every registered model: what sending, averaging and restarting need of it."""

import pytest
import torch

from fedws import learning, registry
from fedws.tensors import NAMES, detached, difference

NAMES_OF_MODELS = registry.names("model")
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
    one = learning.initial(name, 1).state_dict()
    torch.manual_seed(6)
    same, other = learning.initial(name, 1).state_dict(), learning.initial(name, 2).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", NAMES_OF_MODELS)
def test_the_state_may_cross_the_wire_and_comes_back(name: str) -> None:
    module = learning.initial(name, 1).train()
    output(module)  # buffers move too
    state = detached(module.state_dict())
    assert state and all(tensor.dtype in NAMES for tensor in state.values())
    other = learning.initial(name, 2)
    assert difference(state, other.state_dict()) == ""
    other.load_state_dict(state)
    assert all(torch.equal(tensor, state[key]) for key, tensor in other.state_dict().items())
    assert torch.equal(output(module.eval())[1], output(other.eval())[1])


@pytest.mark.parametrize("name", NAMES_OF_MODELS)
def test_every_parameter_learns(name: str) -> None:
    module = learning.initial(name, 1).train()
    _, outputs = output(module)
    assert outputs.shape[0] == 6 and torch.isfinite(outputs).all()
    outputs[:, 0].sum().backward()
    for key, parameter in module.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key


@pytest.mark.parametrize("name", NAMES_OF_MODELS)
def test_scoring_does_not_depend_on_the_batch(name: str) -> None:
    module = learning.initial(name, 1).eval()
    inputs, outputs = output(module)
    assert torch.allclose(torch.cat([module(inputs[:2]), module(inputs[2:])]), outputs, atol=1e-5)
