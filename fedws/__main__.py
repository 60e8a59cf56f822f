"""``python -m fedws`` is the command ``fedws``."""

from fedws.cli.main import console

console()
