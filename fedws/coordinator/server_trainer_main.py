"""The program of the coordinator's own node: see :mod:`fedws.coordinator.server_trainer`. Ends with its standard
input."""

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from fedws.coordinator.server_trainer import LENGTH
from fedws.core import registry
from fedws.core.error_location import told
from fedws.core.errors import FedwsError, UsageError
from fedws.core.limits import ANY
from fedws.core.untrusted_text import CLEAN
from fedws.node.worker import Worker
from fedws.privacy.policy import Policy
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode
from fedws.protocol.messages import COORDINATOR, Failure, Order, Report
from fedws.split_learning.feature_store import FeatureStore
from fedws.training.base import Task


def main() -> None:
    """Answer orders until there are no more."""
    given = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a task prints must not be read as an answer
    torch.set_num_threads(given["threads"])
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger().handlers[0].addFilter(CLEAN)
    if given.get("verbose"):
        logging.getLogger("fedws").setLevel(logging.DEBUG)
    for plugin in given["plugin"]:
        registry.load_plugin(plugin)
    tasks = registry.find("strategy", registry.Spec.parse(given["strategy"]).name).own
    store = FeatureStore(Path(given["store"]))
    while (order := _read(sys.stdin.buffer)) is not None:
        answer = _answer(order, store, tasks)
        try:
            encoded = encode(answer, ANY)
        except UsageError as error:  # more tensors than a message holds, as with an optimizer's memory
            encoded = encode(_failed(order, f"its answer has {error}"), ANY)
        answers.write(LENGTH.pack(encoded.size))
        for piece in encoded.fragments():
            answers.write(piece)
        answers.flush()


def _answer(order: Order, store: FeatureStore, tasks: Mapping[str, Task]) -> Report | Failure:
    try:
        records = store.records()
    except UsageError as error:
        return _failed(order, str(error))
    policy = Policy(samples=0, parameters=2**63, batch_size=2**63)  # requests are of this process's own user
    own = Worker(COORDINATOR, "features", records, labels=[], tasks=tasks, policy=policy, details=True)
    return own.answer(order)


def _failed(order: Order, reason: str) -> Failure:
    return Failure(order=order.id, worker=COORDINATOR, round=order.round, kind="failed", reason=reason)


def _read(pipe: BinaryIO) -> Order | None:
    head = pipe.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    decoder = Decoder(size)
    while size:
        piece = pipe.read(min(size, 2**20))
        if not piece:  # whoever asked has died
            return None
        decoder.feed(piece)
        size -= len(piece)
    order = decoder.message()
    assert isinstance(order, Order)
    return order


if __name__ == "__main__":
    try:
        main()
    except FedwsError as failure:
        sys.exit(f"the coordinator's training process: {told(failure)}")
