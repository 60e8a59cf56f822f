"""``python -m tools.requirements.audit`` (``make audit``): ask the public feed of known vulnerabilities about every
pin.

It needs the network, and is no test: what it says changes without any change here. All pins are asked about, those of
other Pythons and systems too. A pin that the feed does not know counts as not audited, which is no good end.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.requirements.pins import FILE, Pin, read

GOOD, FOUND, NOT_AUDITED = 0, 1, 2
Ask = Callable[[Sequence[Pin]], tuple[str, str]]


def main(ask: Ask | None = None) -> int:
    """Print what is known of the pins; the exit code is one of those above."""
    pins = read(FILE.read_text(encoding="utf-8"))
    found: list[str] = []
    unknown: list[str] = []
    for group in apart(pins):
        answer, errors = (ask or pip_audit)(group)
        try:
            told = json.loads(answer)["dependencies"]
        except (ValueError, KeyError, TypeError):
            why = (errors.strip().splitlines() or ["it said nothing"])[-1]
            print(f"not audited: pip-audit cannot reach the feed, or failed: {why[:200]}", file=sys.stderr)
            return NOT_AUDITED
        for one in told:
            found += [f"{one['name']} {one['version']}: {vuln['id']}" + _fixed(vuln) for vuln in one.get("vulns", ())]
        known = {(one["name"], one.get("version")) for one in told if "skip_reason" not in one}
        unknown += [f"{pin.name} {pin.version}" for pin in group if (pin.name, pin.version) not in known]
    for line in found:
        print(line)
    if unknown:
        some = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        print(f"not audited: the feed does not know {len(unknown)} of {len(pins)} pins: {some}", file=sys.stderr)
    elif not found:
        print(f"{len(pins)} pins, no known vulnerability")
    return FOUND if found else NOT_AUDITED if unknown else GOOD


def apart(pins: Sequence[Pin]) -> list[list[Pin]]:
    """The pins in as few groups as give no package two versions in one of them."""
    groups: list[list[Pin]] = []
    for pin in pins:
        room = (group for group in groups if pin.name not in {other.name for other in group})
        group = next(room, None)
        if group is None:
            groups.append(group := [])
        group.append(pin)
    return groups


def pip_audit(pins: Sequence[Pin]) -> tuple[str, str]:
    """What pip-audit says of them as JSON, and its errors."""
    with tempfile.TemporaryDirectory(prefix="fedws-audit-") as folder:
        asked = Path(folder) / "pins.txt"
        asked.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in pins), encoding="utf-8")
        flags = ["--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off"]
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", "--requirement", str(asked), *flags], capture_output=True, text=True
        )
    return done.stdout, done.stderr


def _fixed(vuln: dict[str, list[str]]) -> str:
    return f", fixed in {', '.join(vuln['fix_versions'])}" if vuln.get("fix_versions") else ""


if __name__ == "__main__":
    sys.exit(main())
