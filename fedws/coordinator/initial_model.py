"""The weights of a model in a safetensors file, as a run starts from them."""

from pathlib import Path

from safetensors import SafetensorError

from fedws.core import tensor_file
from fedws.core.errors import UsageError
from fedws.core.tensors import Tensors, copy_to_cpu, find_mismatch, find_nonfinite
from fedws.core.untrusted_text import to_printable

_EXPECTED_FILE = "a file of weights, as model.safetensors of a run"


def load_initial_model(path: Path, reference: Tensors, model_name: str) -> Tensors:
    """Return the weights in a file, in memory of their own: the file may change or go afterwards.

    Raises UsageError unless they have the names, shapes and dtypes of ``reference``, which are those of ``model_name``.
    """
    try:
        with path.open("rb"):  # says in words why it cannot be read
            found = tensor_file.load_tensors(path)
    except OSError as error:
        raise UsageError(
            f"--initial-model {path} cannot be read: {error.strerror or error}; name {_EXPECTED_FILE}"
        ) from None
    except (SafetensorError, KeyError, ValueError):  # a dtype that torch has not
        raise UsageError(f"--initial-model {path} is not a safetensors file; name {_EXPECTED_FILE}") from None
    if problem := find_mismatch(found, reference):
        which = f"does not fit the model {model_name}: {to_printable(problem)}"
        raise UsageError(f"--initial-model {path} {which}; name the model that it is of with --model")
    if problem := find_nonfinite(found):
        raise UsageError(f"--initial-model {path} cannot be trained from: {problem}; name {_EXPECTED_FILE}")
    return copy_to_cpu(found)
