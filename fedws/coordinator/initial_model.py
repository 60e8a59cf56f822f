"""The loader of the initial weights of a run from a safetensors file."""

from pathlib import Path

from safetensors import SafetensorError

from fedws.core import tensor_file
from fedws.core.errors import UsageError
from fedws.core.tensors import Tensors, copy_to_cpu, find_mismatch, find_nonfinite
from fedws.core.untrusted_text import to_printable

_EXPECTED_FILE = "a file of weights such as model.safetensors of a run"


def load_initial_model(path: Path, reference: Tensors, model_name: str) -> Tensors:
    """Return the weights in a file, copied into memory so that the file may change afterwards.

    ``reference`` has the state dict of the model ``model_name``. Raises UsageError if the file cannot be read, or if
    its names, shapes or dtypes differ from the reference.
    """
    try:
        with path.open("rb"):  # raises an OSError with a clear reason
            found = tensor_file.load_tensors(path)
    except OSError as error:
        raise UsageError(
            f"--initial-model: cannot read {path}: {error.strerror or error}; give {_EXPECTED_FILE}"
        ) from None
    except (SafetensorError, KeyError, ValueError):  # KeyError: a dtype that torch does not support
        raise UsageError(f"--initial-model {path} is not a safetensors file; give {_EXPECTED_FILE}") from None
    if problem := find_mismatch(found, reference):
        mismatch = f"does not fit the model {model_name}: {to_printable(problem)}"
        raise UsageError(f"--initial-model {path} {mismatch}; set --model to the model of this file")
    if problem := find_nonfinite(found):
        raise UsageError(f"--initial-model {path} cannot be used: {problem}; give {_EXPECTED_FILE}")
    return copy_to_cpu(found)
