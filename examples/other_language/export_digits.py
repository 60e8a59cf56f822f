"""Write some of scikit-learn's digits as JSON, for a worker that has no Python.

    python examples/other_language/export_digits.py alice.json --digits 0 1 2 3 4

The samples are those of ``fedws worker --dataset digits --labels 0-4``: 28 x 28 pictures, each as 784 numbers row by
row, ``(pixel / 255 - mean) / std`` as section 8 of docs/topics/protocol.md defines it, and a label.
"""

import argparse
import json
from pathlib import Path

import torch

from fedws.data.datasets.digits import Digits


def main() -> None:
    """Write ``{"dataset": "digits", "inputs": [[...], ...], "targets": [...]}``."""
    parser = argparse.ArgumentParser(description="Write some of scikit-learn's digits as JSON.")
    parser.add_argument("file", type=Path, help="the file to write")
    parser.add_argument("--digits", type=int, nargs="+", choices=range(10), default=range(10), help="which ones (all)")
    arguments = parser.parse_args()
    data = Digits(Path(), train=True)
    chosen = torch.isin(data.targets, torch.tensor([*arguments.digits])).nonzero().flatten()
    inputs, targets = data.batch(chosen)
    rows = [[round(value, 6) for value in row] for row in inputs.flatten(1).tolist()]
    arguments.file.write_text(json.dumps({"dataset": "digits", "inputs": rows, "targets": targets.tolist()}))
    print(f"{arguments.file}: {len(rows)} samples")


if __name__ == "__main__":
    main()
