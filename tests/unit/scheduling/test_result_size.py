"""What a result weighs: as much as a model, or what the algorithm states."""

import torch

from fedws.algorithms.fedsgd import FedSGD
from fedws.core import registry
from fedws.core.task_settings import TrainSettings
from fedws.core.tensors import copy_to_cpu
from fedws.protocol.answer_size import compute_tensors_size
from fedws.scheduling.result_size import compute_result_size

SMALL = {"w": torch.ones(10)}


def test_results_are_as_large_as_a_model_or_as_the_algorithm_tells() -> None:
    class Twice:
        def result_template(self, model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {**model, **{f"other:{name}": tensor for name, tensor in model.items()}}

    assert compute_result_size(object(), SMALL) == 40
    assert compute_result_size(Twice(), SMALL) == 64 + 40


def test_a_gradient_of_narrow_floats_is_wide_and_is_taken() -> None:
    model = copy_to_cpu(registry.build_piece("model", "mlp:hidden=2,inputs=2,outputs=2").state_dict())
    made = FedSGD(TrainSettings(model="mlp:hidden=2,inputs=2,outputs=2"))
    narrow = {name: tensor.to(torch.float8_e5m2) for name, tensor in model.items()}
    assert compute_result_size(made, narrow) > compute_tensors_size(narrow)
