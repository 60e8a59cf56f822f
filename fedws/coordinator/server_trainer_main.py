"""The program of the server trainer, which ends when its standard input is closed.

See ``fedws.coordinator.server_trainer``.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from fedws.coordinator.server_trainer import LENGTH_PREFIX
from fedws.core import registry
from fedws.core.error_text import describe_error
from fedws.core.errors import FedwsError, UsageError
from fedws.core.limits import NO_MESSAGE_LIMITS
from fedws.core.plugins import load_plugins
from fedws.core.spec import Spec
from fedws.core.untrusted_text import PRINTABLE_FILTER
from fedws.node.worker import Worker
from fedws.privacy.policy import Policy
from fedws.protocol.decoder import Decoder
from fedws.protocol.encoder import encode_message
from fedws.protocol.messages import DEFAULT_COORDINATOR_ID, Answer, TaskRequest, build_failure
from fedws.split_learning.feature_store import FeatureStore
from fedws.training.base import Task


def main() -> None:
    """Answer the requests on standard input until it is closed."""
    arguments = json.loads(sys.argv[1])
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a task's own output must not be read as an answer
    torch.set_num_threads(arguments["threads"])
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger().handlers[0].addFilter(PRINTABLE_FILTER)
    if arguments.get("verbose"):
        logging.getLogger("fedws").setLevel(logging.DEBUG)
    load_plugins(arguments["plugins"])
    tasks = registry.find_piece("algorithm", Spec.parse(arguments["algorithm"]).name).server_tasks
    store = FeatureStore(Path(arguments["feature_dir"]))
    while (request := _read_request(sys.stdin.buffer)) is not None:
        answer = _execute(request, store, tasks)
        try:
            encoded = encode_message(answer, NO_MESSAGE_LIMITS)
        except UsageError as error:  # too many tensors, for example with an optimizer's state
            encoded = encode_message(build_failure(request, "failed", f"the answer has {error}"), NO_MESSAGE_LIMITS)
        output.write(LENGTH_PREFIX.pack(encoded.size))
        for piece in encoded.fragments():
            output.write(piece)
        output.flush()


def _execute(request: TaskRequest, feature_store: FeatureStore, tasks: Mapping[str, Task]) -> Answer:
    try:
        features = feature_store.load_features()
    except UsageError as error:
        return build_failure(request, "failed", str(error))
    # All requests come from the user that started this process, so no limit applies.
    policy = Policy(min_samples=0, max_parameters=2**63, max_batch_size=2**63)
    trainer = Worker(
        DEFAULT_COORDINATOR_ID, "features", features, labels=[], tasks=tasks, policy=policy, send_error_details=True
    )
    return trainer.execute(request)


def _read_request(pipe: BinaryIO) -> TaskRequest | None:
    head = pipe.read(LENGTH_PREFIX.size)
    if len(head) < LENGTH_PREFIX.size:
        return None
    (size,) = LENGTH_PREFIX.unpack(head)
    decoder = Decoder(size)
    while size:
        piece = pipe.read(min(size, 2**20))
        if not piece:  # the coordinator has died
            return None
        decoder.feed(piece)
        size -= len(piece)
    request = decoder.build_message()
    assert isinstance(request, TaskRequest)
    return request


if __name__ == "__main__":
    try:
        main()
    except FedwsError as failure:
        sys.exit(f"server trainer: {describe_error(failure)}")
