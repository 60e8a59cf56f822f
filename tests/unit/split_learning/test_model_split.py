"""Cutting models: those of torchvision, and modules of a user's own in all their kinds."""

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.models import ResNet, resnet18, vgg16, vgg16_bn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.vgg import VGG, make_layers

from fedws.core.errors import UsageError
from fedws.split_learning.model_split import find_split_points, split_model


def small_vgg(batch_norm: bool = False) -> nn.Module:
    module = VGG(make_layers([4, "M", 8, "M"], batch_norm), init_weights=False)
    module.classifier = nn.Sequential(nn.Linear(8 * 7 * 7, 6), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(6, 3))
    return module  # type: ignore[no-any-return]


def small_resnet(block: Any = BasicBlock) -> Any:
    """Of its four layers, two: the others have most of the weights, and nothing new."""
    module = ResNet(block, [1, 1, 1, 1])
    module.layer3, module.layer4 = nn.Identity(), nn.Identity()
    module.fc = nn.Linear(128 * block.expansion, 3)
    return module


def cifar_resnet() -> nn.Module:
    """As it is built for images of 32 x 32: a first convolution of 3 x 3, and no pooling after it."""
    module = small_resnet()
    module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return module  # type: ignore[no-any-return]


class Net(nn.Module):
    """A user's: functions that depend on the mode, a layer that never runs, and tensors of all kinds of its own."""

    shift: torch.Tensor
    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(3, 1)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.register_buffer("shift", torch.arange(4.0))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0]), persistent=False)
        self.constant = torch.tensor([0.5])
        self.first = nn.Linear(6, 4)
        self.norm = nn.BatchNorm1d(4)
        self.third = nn.Linear(4, 2)
        self.second = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.dropout(self.norm(self.first(x.flatten(1)) + self.mask), 0.5, self.training)
        x = functional.relu(x * self.scale + self.shift * torch.tensor(2.0))
        x = self.second(x * (self.mask * self.constant))
        return functional.log_softmax(self.third(x) if self.training else self.third(x) + 1, dim=1)


def plain(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(*modules)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vgg": (small_vgg, (3, 16, 16)),
    "vgg with batch norm": (lambda: small_vgg(batch_norm=True), (3, 16, 16)),
    "resnet": (small_resnet, (3, 32, 32)),
    "bottlenecks": (lambda: small_resnet(Bottleneck), (3, 32, 32)),
    "resnet for cifar": (cifar_resnet, (3, 8, 8)),
    "a user's": (Net, (2, 3)),
}


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
def test_extractor_and_head_are_the_model(name: str, mode: bool) -> None:
    build, shape = MODELS[name]
    module, inputs = build(), torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    names = find_split_points(module)
    assert len(names) > 2
    for cut in names:
        whole, halved = copy.deepcopy(module).train(mode), copy.deepcopy(module)
        extractor, head = (half.train(mode) for half in split_model(halved, cut))
        torch.manual_seed(3)
        wanted = whole(inputs)
        torch.manual_seed(3)
        found = head(extractor(inputs))
        found[:, 0].sum().backward()
        wanted[:, 0].sum().backward()
        assert torch.equal(found, wanted), cut
        for (key, one), (_, other) in zip(whole.named_parameters(), halved.named_parameters(), strict=True):
            assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad), (cut, key)  # type: ignore[arg-type]

        states = extractor.state_dict(), head.state_dict()
        assert not states[0].keys() & states[1].keys()
        for state in states:
            assert list(state) == [key for key in whole.state_dict() if key in state], "the order is the model's"
        assert states[0].keys() | states[1].keys() == whole.state_dict().keys()
        assert all(torch.equal(tensor, whole.state_dict()[key]) for state in states for key, tensor in state.items())


# --------------------------------------------------------------------------- which cuts there are


def test_the_cuts_of_a_vgg() -> None:
    with torch.device("meta"):
        names, normed = find_split_points(vgg16(init_weights=False)), find_split_points(vgg16_bn(init_weights=False))
    features = [f"features.{number}" for number in range(31)]
    classifier = [f"classifier.{number}" for number in range(6)]
    assert names == [*features, "features", "avgpool", *classifier]
    assert len(normed) == len(names) + 13


def test_the_cuts_of_a_resnet() -> None:
    with torch.device("meta"):
        names = find_split_points(resnet18())
    blocks = [f"layer{n}{block}" for n in (1, 2, 3, 4) for block in (".0", ".1", "")]
    assert names == ["conv1", "bn1", "relu", "maxpool", *blocks, "avgpool"]


def test_a_cut_is_inclusive() -> None:
    module, inputs = small_resnet().eval(), torch.randn(2, 3, 32, 32)
    x = module.maxpool(module.relu(module.bn1(module.conv1(inputs))))
    assert torch.equal(split_model(module, "maxpool")[0](inputs), x)
    block = module.layer1(x)
    assert torch.equal(split_model(module, "layer1.0")[0](inputs), block) and (block >= 0).all(), "it ends with a relu"
    assert torch.equal(split_model(module, "layer1")[0](inputs), block)


def test_what_is_no_module_of_its_own_is_in_the_head() -> None:
    module, inputs = Net().eval(), torch.randn(4, 6)
    extractor, head = split_model(module, "norm")
    assert torch.equal(extractor(inputs), module.norm(module.first(inputs) + module.mask))
    assert list(extractor.state_dict()) == [key for key in module.state_dict() if key.startswith(("first", "norm"))]
    assert {"scale", "shift", "never.weight"} < head.state_dict().keys()
    assert not {"mask", "constant"} & head.state_dict().keys() and "mask" in dict(head.named_buffers())


def test_work_in_place_at_the_end_of_a_module_is_in_the_extractor() -> None:
    class Layer(nn.Linear):
        __module__ = "tests"  # else torch.fx takes it for one of torch.nn

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = super().forward(x)
            x.relu_()
            return x

    module, inputs = nn.Sequential(Layer(3, 8), nn.Linear(8, 2)), torch.randn(4, 3)
    extractor, head = split_model(module, "0")
    assert torch.equal(extractor(inputs), module[0](inputs)) and (extractor(inputs) >= 0).all()
    assert torch.equal(head(extractor(inputs)), module(inputs))


def test_numbers_are_children_of_the_feature_trunk() -> None:
    def same(module: nn.Module, number: str, cut: str) -> bool:
        return list(split_model(module, number)[0].state_dict()) == list(split_model(module, cut)[0].state_dict())

    with torch.device("meta"):
        assert same(vgg16(init_weights=False), "2", "features.2")
        assert not same(vgg16(init_weights=False), "5", "features.4")
        assert same(resnet18(), "4", "layer1") and not same(resnet18(), "5", "layer1")
    assert same(nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.Linear(2, 2), c=nn.Linear(2, 2))), "1", "b")
    assert same(Net(), "0", "first"), "in the order in which they run"


def test_a_module_that_cannot_be_traced_is_on_one_side() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dense(x) if x.sum() > 0 else -x

    module = nn.Sequential(nn.Linear(3, 4), Branching(), nn.Linear(4, 2))
    assert find_split_points(module) == ["0", "1"]
    for cut in find_split_points(module):
        extractor, head = split_model(module, cut)
        for inputs in (torch.ones(2, 3), -torch.ones(2, 3)):
            assert torch.equal(head(extractor(inputs)), module(inputs))
    with pytest.raises(UsageError, match=r"cannot split Branching: torch\.fx cannot trace it"):
        find_split_points(Branching())


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        ("layer9", "unknown split point in ResNet; choose from layer4, layer3, layer2, conv1, bn1, relu, maxpool, "),
        ("features.2", "unknown split point in ResNet; choose from conv1, bn1, "),
        ("99", "unknown split point in ResNet; choose from conv1, "),
        ("-1", "unknown split point in ResNet; choose from conv1, "),
        ("", "unknown split point in ResNet; choose from conv1, "),
        ("__class__", "unknown split point in ResNet; choose from "),
        ("layer1.0.conv1", "a skip connection or other data bypasses the module in ResNet; choose from layer1.0, "),
        ("layer2.0.downsample", "a skip connection or other data bypasses the module in ResNet; choose from layer2.0,"),
        ("layer1.0.relu", "the module runs 2 times in ResNet; choose from layer1.0, "),
        ("fc", "no weights after it in ResNet; choose from conv1, "),
        ("9", "no weights after it in ResNet; choose from conv1, "),
    ],
)
def test_a_cut_that_cannot_be_is_refused_with_those_that_can(cut: str, reason: str) -> None:
    module = small_resnet()
    with pytest.raises(UsageError) as error:
        split_model(module, cut)
    assert str(error.value).startswith(f"--split-at {cut}: {reason}")
    assert set(str(error.value).partition("choose from ")[2].split(", ")) == set(find_split_points(module))


def tied() -> nn.Module:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    module[2].weight = module[0].weight
    return module


class Twice(nn.Module):
    """Gives two values from one module, and never runs another."""

    def __init__(self) -> None:
        super().__init__()
        self.pair, self.last, self.never = Pair(), nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.pair(x)
        return self.last(one + other)  # type: ignore[no-any-return]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.dense(x)
        return x, -x


SHARED, RELU = nn.Linear(2, 2), nn.ReLU()


@pytest.mark.parametrize(
    ("module", "cut", "reason", "can"),
    [
        (tied(), "0", "both halves would use the same weights", "none"),
        (plain(SHARED, nn.Linear(2, 2), SHARED), "1", "both halves would use the same weights", "none"),
        (plain(SHARED, nn.Linear(2, 2), SHARED), "2", "the module runs 2 times", "none"),
        (plain(nn.Linear(2, 2), RELU, nn.Linear(2, 2), RELU, nn.Linear(2, 2)), "3", "the module runs 2 times", "0, 2"),
        (plain(nn.ReLU(), nn.Linear(2, 2)), "0", "no weights before it", "none"),
        (plain(nn.Linear(2, 2), nn.ReLU()), "0", "no weights after it", "none"),
        (plain(nn.Linear(2, 2), nn.ReLU()), "1", "no weights after it", "none"),
        (Twice(), "pair", "the module does not return one value of its own", "pair.dense"),
        (Twice(), "never", "the module runs 0 times", "pair.dense"),
    ],
)
def test_a_model_may_forbid_cuts(module: nn.Module, cut: str, reason: str, can: str) -> None:
    with pytest.raises(UsageError) as error:
        split_model(module, cut)
    hint = "the model has no split points" if can == "none" else f"choose from {can}"
    assert str(error.value) == f"--split-at {cut}: {reason} in {type(module).__name__}; {hint}"
    assert (", ".join(find_split_points(module)) or "none") == can


def test_what_is_used_in_training_alone_counts() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            y = self.c(self.b(x))
            return y + x if self.training else y  # type: ignore[no-any-return]

    assert find_split_points(Auxiliary()) == ["a"]


# --------------------------------------------------------------------------- what a half is


def test_the_halves_switch_with_their_own_mode() -> None:
    shared = nn.Dropout(0.5)
    module = nn.Sequential(nn.Linear(8, 64), shared, nn.Linear(64, 64), shared, nn.Linear(64, 2)).eval()
    extractor, head = split_model(module, "2")
    assert not extractor.training and not head.training and not any(part.training for part in head.children())
    head.train()
    inputs = torch.randn(4, 8)
    assert torch.equal(extractor(inputs), extractor(inputs)), "the extractor drops nothing"
    features = extractor(inputs)
    assert not torch.equal(head(features), head(features))
    assert not shared.training, "nor does the model"


def test_splitting_leaves_the_model_as_it_is() -> None:
    module = Net().train()
    module.norm.eval()
    before, state = vars(module).copy(), copy.deepcopy(module.state_dict())
    extractor, _ = split_model(module, "norm")
    assert vars(module).keys() == before.keys() and module.training and not module.norm.training
    assert extractor.training and not extractor.get_submodule("norm").training
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())


def test_the_halves_hold_the_models_own_tensors() -> None:
    module = Net()
    for half in split_model(module, "norm"):
        assert all(half.get_parameter(key) is module.get_parameter(key) for key, _ in half.named_parameters())
        assert all(half.get_buffer(key) is module.get_buffer(key) for key, _ in half.named_buffers())


@pytest.mark.parametrize("mode", [False, True], ids=["eval", "train"])
def test_a_copy_of_a_half_is_its_own(mode: bool) -> None:
    module, inputs = Net().train(mode), torch.randn(4, 6)
    _, head = split_model(module, "first")
    features = module.first(inputs).detach()
    copied = copy.deepcopy(head)
    assert copied.training is mode
    torch.manual_seed(3)
    wanted = head(features)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
    torch.manual_seed(3)
    assert torch.equal(copied(features), wanted)
    copied.load_state_dict(head.state_dict())
    torch.manual_seed(3)
    assert torch.equal(copied(features), head(features)) and not torch.equal(head(features), wanted)


def test_a_half_infers_without_gradients() -> None:
    extractor, _ = split_model(small_vgg(), "features.2")
    with torch.inference_mode():
        assert extractor.eval()(torch.randn(1, 3, 16, 16)).is_inference()


def test_a_module_with_two_names_goes_by_both() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.dense = nn.Linear(2, 2), nn.Linear(2, 2)
            self.net = nn.Sequential(self.conv, self.dense)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)  # type: ignore[no-any-return]

    assert find_split_points(Named()) == ["conv"]
    for cut in ("conv", "net.0"):
        extractor, head = split_model(Named(), cut)
        assert list(extractor.state_dict()) == ["conv.weight", "conv.bias", "net.0.weight", "net.0.bias"]
        assert list(head.state_dict()) == ["dense.weight", "dense.bias", "net.1.weight", "net.1.bias"]
