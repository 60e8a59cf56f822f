"""The command ``python -m tools.requirements.audit`` (``make audit``), which checks all pins for vulnerabilities.

It queries a public database of known vulnerabilities. It is not a test, because it requires the network and its result
can change without a change here. It checks all pins, including those for other versions of Python and other systems.
A pin that the database does not contain counts as not audited, and the command then fails.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.requirements.pins import FILE, Pin, read

GOOD, FOUND, NOT_AUDITED = 0, 1, 2
RunAudit = Callable[[Sequence[Pin]], tuple[str, str]]


def main(run_audit: RunAudit | None = None) -> int:
    """Print the known vulnerabilities of the pins, and return the exit status GOOD, FOUND or NOT_AUDITED.

    ``run_audit`` replaces ``run_pip_audit``.
    """
    pins = read(FILE.read_text(encoding="utf-8"))
    found: list[str] = []
    unknown: list[str] = []
    for group in group_pins(pins):
        output, errors = (run_audit or run_pip_audit)(group)
        try:
            dependencies = json.loads(output)["dependencies"]
        except (ValueError, KeyError, TypeError):
            reason = (errors.strip().splitlines() or ["no output"])[-1]
            print(f"not audited: pip-audit failed: {reason[:200]}; check the network", file=sys.stderr)
            return NOT_AUDITED
        for one in dependencies:
            found += [
                f"{one['name']} {one['version']}: {vuln['id']}" + _describe_fix(vuln) for vuln in one.get("vulns", ())
            ]
        known = {(one["name"], one.get("version")) for one in dependencies if "skip_reason" not in one}
        unknown += [f"{pin.name} {pin.version}" for pin in group if (pin.name, pin.version) not in known]
    for line in found:
        print(line)
    if unknown:
        names = ", ".join(unknown[:5]) + (" ..." if len(unknown) > 5 else "")
        print(f"not audited: {len(unknown)} of {len(pins)} pins are unknown to the database: {names}", file=sys.stderr)
    elif not found:
        print(f"{len(pins)} pins, no known vulnerability")
    return FOUND if found else NOT_AUDITED if unknown else GOOD


def group_pins(pins: Sequence[Pin]) -> list[list[Pin]]:
    """Return the pins in as few groups as possible, with at most one version of each package in a group."""
    groups: list[list[Pin]] = []
    for pin in pins:
        candidates = (group for group in groups if pin.name not in {other.name for other in group})
        group = next(candidates, None)
        if group is None:
            groups.append(group := [])
        group.append(pin)
    return groups


def run_pip_audit(pins: Sequence[Pin]) -> tuple[str, str]:
    """Run pip-audit on the pins, and return its output as JSON and its error output."""
    with tempfile.TemporaryDirectory(prefix="fedws-audit-") as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("".join(f"{pin.name}=={pin.version}\n" for pin in pins), encoding="utf-8")
        flags = ["--disable-pip", "--no-deps", "--format", "json", "--progress-spinner", "off"]
        process = subprocess.run(
            [sys.executable, "-m", "pip_audit", "--requirement", str(file), *flags], capture_output=True, text=True
        )
    return process.stdout, process.stderr


def _describe_fix(vuln: dict[str, list[str]]) -> str:
    return f", fixed in {', '.join(vuln['fix_versions'])}" if vuln.get("fix_versions") else ""


if __name__ == "__main__":
    sys.exit(main())
