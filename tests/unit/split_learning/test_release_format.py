"""How records leave: what was agreed is held against what a worker says, and against what it sends."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fedws.core.errors import RejectedUpdate, UnknownName, UsageError
from fedws.protocol.messages import TaskResult
from fedws.split_learning.feature_store import FEATURES_KEY, LABELS_KEY
from fedws.split_learning.release_format import ReleaseFormat
from fedws.split_learning.upload_progress import UploadManifest, UploadProgress

CODED = ReleaseFormat.create("bits", 2.0, 4.0)
FACTS = UploadManifest(
    num_records=5, feature_bytes=2, feature_shape=(11,), encoding="bits", epsilon=2.0, label_epsilon=4.0
)
DELIVERY = UploadProgress(FACTS.model_dump())


def report(**tensors: torch.Tensor) -> TaskResult:
    good = {FEATURES_KEY: torch.zeros(5, 2, dtype=torch.uint8), LABELS_KEY: torch.arange(5)}
    return TaskResult(request_id="1", worker="alice", round=1, num_examples=5, tensors={**good, **tensors})


def test_an_epsilon_of_its_own_goes_into_the_encodings_name() -> None:
    assert ReleaseFormat.create("bits", None, 4.0).build_encoding().epsilon == 2.0, "the encoding's own"
    assert ReleaseFormat.create("bits", 0.5, 4.0).encoding == "bits:epsilon=0.5"
    assert ReleaseFormat.create("laplace:bound=3", 0.5, None).encoding == "laplace:bound=3,epsilon=0.5"
    assert CODED.encoding_name == "bits"


def test_an_encoding_that_is_none_is_told() -> None:
    with pytest.raises(UnknownName, match="morse"):
        ReleaseFormat.create("morse", None, None)
    with pytest.raises(UnknownName, match="unknown option of encoding floats 'epsilon'"):
        ReleaseFormat.create("floats", 1.0, None)
    with pytest.raises(UsageError, match="epsilon"):
        ReleaseFormat.create("bits", -1.0, None)


def test_what_is_spent_is_that_of_the_encoding() -> None:
    spent = CODED.build_release((3, 2))
    assert (spent.encoding, spent.num_features, spent.record_epsilon, spent.delta) == ("bits", 6, 16.0, 0.0)
    assert CODED.build_release((3, 2), resent=True).record_epsilon == 0.0
    assert ReleaseFormat.create("gaussian", 1.0, 4.0).build_release((6,)).delta == 1e-9


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"encoding": "sue"}, "encoding is sue, expected bits"),
        ({"epsilon": 1.0}, "epsilon is 1.0, expected 2.0"),
        ({"label_epsilon": None}, "label epsilon is None, expected 4.0"),
        ({"feature_bytes": 3}, "feature size in bytes is 3, expected 2"),
        ({"feature_shape": (12,)}, r"feature shape is \(12,\), expected \(11,\)"),
        ({"label_shape": (1,)}, r"label format is int64 \[1\], expected int64 \[\]"),
    ],
)
def test_what_a_worker_says_must_be_what_was_asked_for(changes: dict[str, Any], why: str) -> None:
    CODED.check_manifest(FACTS, (11,), "int64 []")
    with pytest.raises(RejectedUpdate, match=why):
        CODED.check_manifest(FACTS.model_copy(update=changes), (11,), "int64 []")


def test_labels_cannot_be_claimed_to_be_without_bounds() -> None:
    why = "a label of 1208925819614629174706176 values exceeds the limit of 1048576 values"
    with pytest.raises(ValidationError, match=why):
        UploadManifest(**{**FACTS.model_dump(), "label_shape": (2**40, 2**40)})


def test_labels_must_be_what_the_model_was_pretrained_with() -> None:
    boxes = FACTS.model_copy(update={"label_shape": (3, 5), "label_dtype": "float32"})
    CODED.check_manifest(boxes, (11,), "float32 [3, 5]")
    with pytest.raises(RejectedUpdate, match=r"label format is float32 \[3, 5\], expected int64 \[\]"):
        CODED.check_manifest(boxes, (11,), "int64 []")
    delivery = UploadProgress(boxes.model_dump())
    good = torch.zeros(5, 3, 5)
    CODED.check_records(report(labels=good), delivery, 0)
    for wrong, why in (
        (torch.arange(5), "labels has shape"),
        (good.double(), "labels is"),
        (good / 0, "labels contains NaN"),
    ):
        with pytest.raises(RejectedUpdate, match=why):
            CODED.check_records(report(labels=wrong), delivery, 0)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({FEATURES_KEY: torch.zeros(4, 2, dtype=torch.uint8)}, r"records 0 to 5: features has shape \[4, 2\]"),
        ({FEATURES_KEY: torch.zeros(5, 2)}, "features is float32, expected uint8"),
        ({LABELS_KEY: torch.arange(5) + 6}, "labels outside the 10 classes"),
        ({LABELS_KEY: torch.arange(5) - 1}, "labels outside the 10 classes"),
        ({FEATURES_KEY: torch.ones(5, 2, dtype=torch.uint8)}, "wrong bit count"),
        ({"more": torch.zeros(1)}, "unexpected tensor 'more'"),
    ],
)
def test_what_a_worker_sends_must_be_records(tensors: dict[str, torch.Tensor], why: str) -> None:
    CODED.check_records(report(), DELIVERY, 10)
    with pytest.raises(RejectedUpdate, match=why):
        CODED.check_records(report(**tensors), DELIVERY, 10)


def test_floats_that_are_no_numbers_are_rejected_wherever_they_are() -> None:
    facts = FACTS.model_copy(update={"encoding": "floats", "epsilon": None, "feature_bytes": 44})
    coded, delivery = ReleaseFormat.create("floats", None, 4.0), UploadProgress(facts.model_dump())
    features = torch.zeros(5, 11)
    coded.check_records(report(features=features.view(torch.uint8)), delivery, 10)
    features[4, 10] = float("nan")
    with pytest.raises(RejectedUpdate):
        coded.check_records(report(features=features.view(torch.uint8)), delivery, 10)


def test_a_delivery_knows_its_next_step() -> None:
    steps = [
        UploadProgress(),
        DELIVERY,
        replace(DELIVERY, num_received=5),
        replace(DELIVERY, num_received=5, acknowledged=True),
    ]
    assert [it.next_step for it in steps] == ["extract", "upload", "acknowledge", ""]
    assert [it.is_complete for it in steps] == [False, False, True, True]


def test_chunks_are_numbered_whatever_the_last_ones_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "fedws.split_learning.upload_progress.MAX_CHUNK_BYTES", 20
    )  # two records of two bytes and a label of eight
    delivery, found = DELIVERY, []
    while delivery.next_step == "upload":
        found.append((delivery.next_chunk, delivery.next_count))
        delivery = replace(delivery, num_received=delivery.num_received + delivery.next_count)
    assert found == [(0, 2), (1, 2), (2, 1)]
