"""``requirements/release.txt``: every runtime dependency, direct or not, at one version, by its files' hashes."""

from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "requirements" / "release.txt"


@dataclass(frozen=True)
class Pin:
    """One version of a package; another Python or system may have another one."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """As registries compare it."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """Raises ValueError when it is not one version."""
        (specifier,) = self.requirement.specifier
        if specifier.operator != "==" or "*" in specifier.version:
            raise ValueError(f"{self.requirement} is not one version")
        return specifier.version


def read(text: str) -> list[Pin]:
    """The pins of such a file. Raises ValueError, also where a line is anything else than a pin.

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
