"""Entry point of ``python -m fedws``, which runs the command ``fedws``."""

from fedws.cli.main import console

console()
