"""The weights of a model in a safetensors file, as a run starts from them."""

from pathlib import Path

from safetensors import SafetensorError

from fedws.core import tensor_file
from fedws.core.errors import UsageError, printable
from fedws.core.tensors import Tensors, detached, difference, unfit

_FILE = "a file of weights, as model.safetensors of a run"


def load(path: Path, like: Tensors, model: str) -> Tensors:
    """Return the weights in a file, in memory of their own: the file may change or go afterwards.

    Raises UsageError unless they have the names, shapes and dtypes of ``like``, which are those of ``model``.
    """
    try:
        with path.open("rb"):  # says in words why it cannot be read
            found = tensor_file.load_file(path)
    except OSError as error:
        raise UsageError(f"--initial-model {path} cannot be read: {error.strerror or error}; name {_FILE}") from None
    except (SafetensorError, KeyError, ValueError):  # a dtype that torch has not
        raise UsageError(f"--initial-model {path} is not a safetensors file; name {_FILE}") from None
    if problem := difference(found, like):
        which = f"does not fit the model {model}: {printable(problem)}"
        raise UsageError(f"--initial-model {path} {which}; name the model that it is of with --model")
    if problem := unfit(found):
        raise UsageError(f"--initial-model {path} cannot be trained from: {problem}; name {_FILE}")
    return detached(found)
