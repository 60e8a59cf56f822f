"""The privacy cost of the features of an upload."""

from dataclasses import dataclass

from fedws.protocol.messages import Json


@dataclass(frozen=True)
class FeatureRelease:
    """A description of the data that a task releases: for each sample, a record of features and a label."""

    encoding: str
    """Name of the registered encoding."""
    epsilon: float | None
    """Epsilon spent for each feature value; None for an encoding without noise."""
    label_epsilon: float | None
    """Epsilon spent for each label by randomised response; None for clear labels."""
    num_features: int
    """Number of feature values in a record."""
    delta: float = 0.0
    """Delta spent for each feature value, which is the probability that epsilon does not hold."""
    resent: bool = False
    """True if the same bytes may have left before; sending them again spends no more privacy."""
    fine_tuned: bool = False
    """True if the extractor was trained on the samples, so that each record depends on all samples."""

    @property
    def record_epsilon(self) -> float | None:
        """Epsilon of a whole record with its label, by basic composition; None if a part of it has no bound."""
        if self.epsilon is None or self.label_epsilon is None or self.fine_tuned:
            return None
        return 0.0 if self.resent else self.num_features * self.epsilon + self.label_epsilon

    def to_record(self) -> Json:
        """Return the privacy cost as fields for the record of a run."""
        own = {"num_features": self.num_features, "epsilon": self.epsilon, "label_epsilon": self.label_epsilon}
        return {**own, "record_epsilon": self.record_epsilon, "record_delta": self.num_features * self.delta}

    def describe(self) -> str:
        """Return the privacy cost as a sentence.

        >>> print(FeatureRelease("bits", 2.0, 4.0, 2880).describe())
        Privacy: epsilon 2 for each of a record's 2880 features and 4 for its label; 5764 for the record as a whole
        """
        if self.epsilon is None:
            what = f"each of a record's {self.num_features} features is sent as {self.encoding}, without noise,"
        else:
            what = f"epsilon {self.epsilon:g} for each of a record's {self.num_features} features"
        label = "its label in clear"
        if self.label_epsilon is not None:
            label = f"{'epsilon ' * (self.epsilon is None)}{self.label_epsilon:g} for its label"
        whole = "no bound" if self.record_epsilon is None else f"{self.record_epsilon:g}"
        whole += (
            f" (delta {self.num_features * self.delta:.1g})" if self.delta and self.record_epsilon is not None else ""
        )
        more = ", since workers trained their extractors on all of their samples" if self.fine_tuned else ""
        return f"Privacy: {what} and {label}; {whole} for the record as a whole{more}"
