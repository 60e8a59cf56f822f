"""What the features of an upload cost in privacy."""

from dataclasses import dataclass

from fedws.protocol.messages import Json


@dataclass(frozen=True)
class FeatureRelease:
    """What a task is about to send that is made of samples: a record of features and a label for each."""

    encoding: str
    """The registered encoding's name."""
    epsilon: float | None
    """Spent per feature value, by the encoding's noise; None: it has none."""
    label_epsilon: float | None
    """Spent per label, by its randomised response; None: labels are clear."""
    num_features: int
    """Feature values in a record."""
    delta: float = 0.0
    """Spent per feature value: the chance that epsilon does not hold."""
    resent: bool = False
    """Whether the very same bytes may have left before, which spends nothing more."""
    fine_tuned: bool = False
    """Whether what made them was trained on the samples, so that each record tells of all samples."""

    @property
    def record_epsilon(self) -> float | None:
        """Epsilon of a whole record with its label, by basic composition; None where something has no bound."""
        if self.epsilon is None or self.label_epsilon is None or self.fine_tuned:
            return None
        return 0.0 if self.resent else self.num_features * self.epsilon + self.label_epsilon

    def to_record(self) -> Json:
        """As the record of a run has it."""
        own = {"num_features": self.num_features, "epsilon": self.epsilon, "label_epsilon": self.label_epsilon}
        return {**own, "record_epsilon": self.record_epsilon, "record_delta": self.num_features * self.delta}

    def describe(self) -> str:
        """What it means, in a sentence.

        >>> print(FeatureRelease("bits", 2.0, 4.0, 2880).describe())
        Privacy: epsilon 2 for each of a record's 2880 features and 4 for its label; 5764 for the record as a whole
        """
        if self.epsilon is None:
            what = f"each of a record's {self.num_features} features leaves as {self.encoding}, without noise,"
        else:
            what = f"epsilon {self.epsilon:g} for each of a record's {self.num_features} features"
        label = "its label in clear"
        if self.label_epsilon is not None:
            label = f"{'epsilon ' * (self.epsilon is None)}{self.label_epsilon:g} for its label"
        whole = "no bound" if self.record_epsilon is None else f"{self.record_epsilon:g}"
        whole += (
            f" (delta {self.num_features * self.delta:.1g})" if self.delta and self.record_epsilon is not None else ""
        )
        more = ", since devices adapted their extractors to all of their samples" if self.fine_tuned else ""
        return f"Privacy: {what} and {label}; {whole} for the record as a whole{more}"
