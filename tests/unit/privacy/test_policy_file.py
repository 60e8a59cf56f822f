"""The file of a policy: its keys, and the errors for mistakes in it."""

import math
from pathlib import Path

import pytest

from fedws.core.errors import UsageError
from fedws.node.worker import DEFAULT_POLICY
from fedws.privacy.policy import Policy, load_policy


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    return path


def test_every_key_can_be_written(tmp_path: Path) -> None:
    text = """
coordinators = ["coordinator", "lab-*"]
tasks = ["*.fit", "evaluate"]
models = ["mnist_cnn"]
max_epochs = 2
max_answers_per_day = 100
min_samples = 50
allow_updates = false
max_uploads = 3
encodings = ["floats", "bits"]
max_epsilon = 1
max_delta = 1e-6
labels = "clear"
max_label_epsilon = inf
"""
    assert load_policy(written(tmp_path, text)) == Policy(
        coordinators=("coordinator", "lab-*"),
        tasks=("*.fit", "evaluate"),
        models=("mnist_cnn",),
        max_epochs=2,
        max_answers_per_day=100,
        min_samples=50,
        allow_updates=False,
        max_uploads=3,
        encodings=("floats", "bits"),
        max_epsilon=1.0,
        max_delta=1e-6,
        labels="clear",
        max_label_epsilon=math.inf,
    )


def test_the_document_is_a_policy(tmp_path: Path) -> None:
    """The one in docs/topics/security.md, which people copy."""
    from tests.helpers.support import REPOSITORY

    text = (REPOSITORY / "docs" / "topics" / "security.md").read_text(encoding="utf-8")
    found = load_policy(written(tmp_path, text.partition("```toml\n")[2].partition("```")[0]))
    assert found.coordinators == ("coordinator",)
    assert set(found.model_fields_set) == set(Policy.model_fields), "all keys are in the document"


def test_an_empty_file_allows_what_no_file_does(tmp_path: Path) -> None:
    assert load_policy(written(tmp_path, "")) == DEFAULT_POLICY


BAD = {
    "unknown key": ("task = ['*']", "unknown setting 'task'"),
    "wrong type": ("tasks = 3", "tasks: .*, not 3"),
    "wrong inner type": ("tasks = [1]", "tasks.0: .*, not 1"),
    "number as text": ("max_epochs = '2'", "max_epochs: .*, not '2'"),
    "no rounds": ("max_answers_per_day = 0", "max_answers_per_day: .*, not 0"),
    "less than none": ("min_samples = -1", "min_samples: .*, not -1"),
    "a number for yes": ("allow_updates = 1", "allow_updates: .*, not 1"),
    "half": ("max_epochs = 1.5", "max_epochs: .*, not 1.5"),
    "syntax": ("max_epochs = = 1", ".*line 1"),
    "no text": ("\udcff", ""),
}


@pytest.mark.parametrize("name", BAD)
def test_a_mistake_in_the_file_is_one_line(name: str, tmp_path: Path) -> None:
    """A policy that says something else than its owner means must not begin to hold."""
    text, pattern = BAD[name]
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=rf"^--policy {path}: {pattern}") as error:
        load_policy(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^--policy \S+none: No such file or directory$"):
        load_policy(tmp_path / "none")


def test_a_single_pattern_needs_no_list(tmp_path: Path) -> None:
    assert load_policy(written(tmp_path, 'tasks = "*.fit"')).tasks == ("*.fit",)
