"""k-ary randomised response on labels, and the loss that reckons with it."""

import math
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from fedws.core.errors import UsageError
from fedws.data.batch_labels import count_output_classes, describe_labels, to_sendable_labels
from fedws.privacy.randomised_labels import forward_corrected_loss, randomise_labels, resample_probability
from fedws.privacy.secure_noise import SecureRandom
from tests.helpers.statistics import assert_mean, assert_shares, seeded

MANY = 300_000


def chances(classes: int, epsilon: float) -> tuple[float, float]:
    """p and q of the paper."""
    return (
        math.exp(epsilon) / (math.exp(epsilon) + classes - 1),
        1 / (math.exp(epsilon) + classes - 1),
    )


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0])
def test_labels_change_as_often_as_the_paper_says(classes: int, epsilon: float) -> None:
    p, q = chances(classes, epsilon)
    for label in (0, classes - 1):
        found = randomise_labels(torch.full((MANY,), label), classes, epsilon, seeded(label))
        assert found.dtype == torch.int64
        assert_shares(found.bincount(minlength=classes), [p if other == label else q for other in range(classes)])


def test_each_label_is_drawn_alone() -> None:
    labels = torch.arange(MANY) % 10
    found = randomise_labels(labels, 10, 4.0, seeded())
    p, _ = chances(10, 4.0)
    kept = found == labels
    assert_mean(kept, p, math.sqrt(p * (1 - p)))
    assert_mean(kept[::2] & kept[1::2], p * p, math.sqrt(p * p * (1 - p * p)))
    assert not torch.equal(
        randomise_labels(labels, 10, 4.0, SecureRandom()), randomise_labels(labels, 10, 4.0, SecureRandom())
    )
    assert torch.equal(labels, torch.arange(MANY) % 10), "they are not changed in place"


@given(classes=st.integers(2, 1000), epsilon=st.floats(1e-4, 60))
def test_a_label_never_tells_more_than_epsilon(classes: int, epsilon: float) -> None:
    with localcontext(prec=60):
        anew = Decimal(resample_probability(classes, epsilon))
        p, q = 1 - anew + anew / classes, anew / classes
        assert (p / q).ln() <= Decimal(epsilon)


def test_an_epsilon_without_bounds_still_may_change_a_label() -> None:
    assert resample_probability(10, 1e300) == 2**-32


def test_an_epsilon_that_is_too_small_to_be_drawn_is_said() -> None:
    with pytest.raises(UsageError, match="label epsilon 1e-12 is too small: a label would carry no information"):
        randomise_labels(torch.tensor([1]), 10, 1e-12, SecureRandom())


@pytest.mark.parametrize("epsilon", [None, 4.0])
def test_a_label_that_is_no_class_is_refused(epsilon: float | None) -> None:
    for labels in ([-1, 0], [0, 10]):
        with pytest.raises(ValueError, match="labels must be from 0 to 9"):
            randomise_labels(torch.tensor(labels), 10, epsilon, SecureRandom())
    assert randomise_labels(torch.empty(0, dtype=torch.int64), 10, epsilon, SecureRandom()).shape == (0,)


def test_clear_labels_stay_what_they_are() -> None:
    labels = torch.arange(10)
    assert torch.equal(randomise_labels(labels, 10, None, seeded()), labels)


# --------------------------------------------------------------------------- the loss


def outputs(n: int = 40, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return functional.log_softmax(3 * torch.randn(n, classes, generator=random, dtype=torch.float64), dim=1), (
        torch.randint(classes, (n,), generator=random)
    )


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 20.0])
def test_it_is_the_formula(epsilon: float) -> None:
    log_probabilities, labels = outputs()
    p, q = chances(10, epsilon)
    said = log_probabilities.exp().gather(1, labels[:, None])
    torch.testing.assert_close(
        forward_corrected_loss(log_probabilities, labels, epsilon),
        -(q + (p - q) * said).log().mean(),
        rtol=1e-6,
        atol=0,
    )


def test_clear_labels_have_the_negative_log_likelihood() -> None:
    log_probabilities, labels = outputs()
    nll = functional.nll_loss(log_probabilities, labels)
    assert torch.equal(forward_corrected_loss(log_probabilities, labels, None), nll)
    far = forward_corrected_loss(log_probabilities, labels, 1e300)
    torch.testing.assert_close(far, nll, rtol=1e-3, atol=1e-3)


def test_it_is_finite_where_a_label_is_impossible() -> None:
    scores = torch.tensor([[0.0, -1e4], [1e4, 0.0]], requires_grad=True)
    found = forward_corrected_loss(functional.log_softmax(scores, dim=1), torch.tensor([1, 1]), 4.0)
    found.backward()
    assert float(found.detach()) == pytest.approx(-math.log(chances(2, 4.0)[1]), rel=1e-5)
    assert scores.grad is not None and bool(torch.isfinite(scores.grad).all())


def test_its_minimiser_on_noisy_labels_is_the_clean_distribution() -> None:
    """Exactly, over the distribution of noisy labels; the uncorrected loss has the noisy one for its minimiser."""
    clean = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    p, q = chances(3, 1.0)
    noisy = q + (p - q) * clean
    assert torch.allclose(minimiser(noisy, 1.0), clean, atol=1e-4)
    assert torch.allclose(minimiser(noisy, None), noisy, atol=1e-4) and float((noisy - clean).abs().max()) > 0.1


def test_its_minimiser_on_drawn_labels_is_near_the_clean_distribution() -> None:
    clean = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    labels = torch.multinomial(clean, MANY, replacement=True, generator=torch.Generator().manual_seed(1))
    shares = randomise_labels(labels, 3, 1.0, seeded()).bincount(minlength=3) / MANY
    p, q = chances(3, 1.0)
    bound = 6.2 * 0.5 / math.sqrt(MANY) / (p - q)  # a share's deviation, stretched by the correction
    assert float((minimiser(shares.to(torch.float64), 1.0) - clean).abs().max()) <= bound


def minimiser(shares: torch.Tensor, epsilon: float | None) -> torch.Tensor:
    """The distribution with the least mean loss, where each label comes in its share."""
    scores = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([scores], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def mean() -> torch.Tensor:
        search.zero_grad()
        row = functional.log_softmax(scores, dim=0)[None]
        each = [
            share * forward_corrected_loss(row, torch.tensor([label]), epsilon) for label, share in enumerate(shares)
        ]
        total = torch.stack(each).sum()
        total.backward()
        return total

    search.step(mean)
    return functional.softmax(scores.detach(), dim=0)


@pytest.mark.parametrize(
    ("outputs", "labels", "found"),
    [
        (torch.zeros(3, 10), torch.arange(3), 10),
        (torch.zeros(3, 1), torch.arange(3), 0),
        (torch.zeros(3, 10), torch.zeros(3), 0),
        (torch.zeros(3, 10), torch.zeros(3, 5, dtype=torch.int64), 0),
        (torch.zeros(3, 4, 10), torch.arange(3), 0),
        ({"boxes": torch.zeros(3)}, torch.arange(3), 0),
        (torch.zeros(3, 10), [{"boxes": torch.zeros(3)}], 0),
    ],
)
def test_only_a_classifier_tells_classes_apart(outputs: object, labels: object, found: int) -> None:
    assert count_output_classes(outputs, labels) == found


def test_labels_are_sent_as_whole_numbers_or_floats() -> None:
    assert describe_labels(to_sendable_labels(torch.zeros(2, 3, dtype=torch.float64))) == "float32 [3]"
    assert describe_labels(to_sendable_labels(torch.zeros(2, dtype=torch.int32))) == "int64 []"
    assert (
        to_sendable_labels(torch.tensor([True, False])).tolist() == [1, 0]
        and describe_labels(to_sendable_labels(torch.ones(2).bool())) == "int64 []"
    )
    for wrong in (torch.tensor(1), [torch.zeros(1)], {"boxes": torch.zeros(1)}):
        with pytest.raises(ValueError, match="labels must be tensors of one shape"):
            to_sendable_labels(wrong)
