"""A reader of ``requirements/release.txt``, which pins all runtime dependencies by version and file hashes."""

from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "requirements" / "release.txt"


@dataclass(frozen=True)
class Pin:
    """One version of a package. Other versions of Python or other systems may have another one."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Return the canonical name, as registries compare names."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """Return the version. Raise ValueError if the requirement is not one exact version."""
        (specifier,) = self.requirement.specifier
        if specifier.operator != "==" or "*" in specifier.version:
            raise ValueError(f"{self.requirement} is not one version")
        return specifier.version


def read(text: str) -> list[Pin]:
    """Return the pins in the text of such a file. Raise ValueError if a line is not a pin.

    >>> [pin] = read("# why\\nnumpy==2.4.6 ; sys_platform != 'win32' \\\\\\n    --hash=sha256:00 --hash=sha256:11\\n")
    >>> pin.name, pin.version, pin.hashes
    ('numpy', '2.4.6', ('sha256:00', 'sha256:11'))
    """
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    pins = []
    for line in lines.replace("\\\n", " ").splitlines():
        requirement, *hashes = line.split(" --hash=")
        if requirement.strip():
            pins.append(Pin(Requirement(requirement.strip()), tuple(one.strip() for one in hashes)))
    return pins
