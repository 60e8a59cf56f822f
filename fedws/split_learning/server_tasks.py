"""Tasks of the server trainer: pretraining on public data, and training of the head."""

from dataclasses import asdict, replace
from functools import cache

from fedws.data import loading
from fedws.data.base import Dataset
from fedws.protocol.messages import TaskRequest, TaskResult
from fedws.split_learning import head_training, pretraining
from fedws.split_learning.feature_store import StoredFeatures
from fedws.split_learning.head_training import HeadTrainSettings
from fedws.split_learning.pretraining import PretrainSettings
from fedws.training import model_building, optimizer_state
from fedws.training.task_context import TaskContext


@cache
def _load_public_dataset(name: str) -> Dataset:
    return loading.load_dataset(name, None, train=True)


def pretrain(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Train the whole model, and any other extractors, for an epoch on public data.

    The setting ``dataset`` names the public data.
    """
    settings = PretrainSettings.model_validate(request.settings)
    public = replace(context, dataset=settings.dataset, data=_load_public_dataset(settings.dataset))
    names = model_building.build_model(settings.model, seed=0).state_dict()
    module = public.build_model(settings.model, {name: request.tensors[name] for name in names})
    extra_extractors = {name: tensor for name, tensor in request.tensors.items() if name not in names}
    classes, label = pretraining.inspect_labels(module, public, settings)
    trained, tensors = pretraining.pretrain_epoch(module, extra_extractors, public, settings, request.seed)
    label_metrics = {"num_classes": classes, "label_format": label, "input_shape": pretraining.input_shape(public)}
    return context.build_result(request, {**asdict(trained), **label_metrics}, tensors)


def train(request: TaskRequest, context: TaskContext) -> TaskResult:
    """Train the head for an epoch on all stored records; the result also has the state of the optimizer."""
    settings, records = context.parse_settings(request, HeadTrainSettings), context.data
    assert isinstance(records, StoredFeatures)
    memory = {name: tensor for name, tensor in request.tensors.items() if name.startswith(optimizer_state.STATE_PREFIX)}
    weights = {name: tensor for name, tensor in request.tensors.items() if name not in memory}
    module = context.build_model(settings.model, weights)
    loss, tensors = head_training.train_head(module, memory, records, settings, context, request.seed)
    return context.build_result(request, {"loss": loss, "num_examples": len(records)}, tensors)
