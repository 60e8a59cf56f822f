"""What a release runs with: every dependency pinned by hash, and an audit that says what it could not find out."""

import json
import re
import tomllib
from collections.abc import Sequence

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers.support import REPOSITORY
from tools.requirements import audit
from tools.requirements.pins import FILE, Pin, read

TEXT = FILE.read_text(encoding="utf-8")
PINS = read(TEXT)
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WANTED = [Requirement(text) for text in PROJECT["dependencies"]]


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: wanted.name)
def test_every_runtime_dependency_is_pinned_within_its_range(wanted: Requirement) -> None:
    pins = [pin for pin in PINS if pin.name == canonicalize_name(wanted.name)]
    assert pins, "run 'make pin'"
    for pin in pins:
        assert wanted.specifier.contains(pin.version), f"{pin.requirement} is not in {wanted.specifier}; run 'make pin'"
    if wanted.marker is None or wanted.marker.evaluate():
        applies = [pin for pin in pins if pin.requirement.marker is None or pin.requirement.marker.evaluate()]
        assert len(applies) == 1, "one version, on this Python and system"


@pytest.mark.parametrize("pin", PINS, ids=lambda pin: f"{pin.name}-{pin.version}")
def test_every_pin_is_one_version_with_hashes(pin: Pin) -> None:
    assert pin.version
    assert pin.hashes
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", one) for one in pin.hashes)
    assert pin.requirement.url is None


def test_the_file_names_no_registry_and_no_folder_of_a_machine() -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host|(^|\s)[/~]", TEXT)


def test_pins_apply_on_the_oldest_python_that_is_supported() -> None:
    """Each package on Linux has one version there, whichever Python the tests run on."""
    oldest = PROJECT["requires-python"].removeprefix(">=")
    there = {"python_version": oldest, "python_full_version": f"{oldest}.0", "sys_platform": "linux"}
    names = [pin.name for pin in PINS if pin.requirement.marker is None or pin.requirement.marker.evaluate(dict(there))]
    assert len(names) == len(set(names))
    assert {canonicalize_name(wanted.name) for wanted in WANTED} <= set(names)


@pytest.mark.parametrize(
    "line", ["--index-url https://example.org", "-e .", "numpy>=2", "numpy==2.*", "numpy", "./numpy.whl"]
)
def test_a_line_that_pins_nothing_is_found(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        print([pin.version for pin in read(f"{line} --hash=sha256:00\n")])


# --------------------------------------------------------------------------- the audit


def answer(pins: Sequence[Pin], bad: str = "", unknown: str = "") -> tuple[str, str]:
    """What pip-audit would say."""
    told: list[dict[str, object]] = []
    for pin in pins:
        if pin.name == unknown:
            told.append({"name": pin.name, "skip_reason": "Dependency not found"})
            continue
        vulns = [{"id": "PYSEC-1", "fix_versions": ["99"]}] if pin.name == bad else []
        told.append({"name": pin.name, "version": pin.version, "vulns": vulns})
    return json.dumps({"dependencies": told}), ""


def test_every_pin_is_asked_about_and_no_package_twice_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Pin] = []

    def ask(pins: Sequence[Pin]) -> tuple[str, str]:
        assert len({pin.name for pin in pins}) == len(pins)
        asked.extend(pins)
        return answer(pins)

    assert audit.main(ask) == audit.GOOD
    assert sorted(map(str, asked)) == sorted(map(str, PINS))
    assert capsys.readouterr().out == f"{len(PINS)} pins, no known vulnerability\n"


def test_what_is_found_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(lambda pins: answer(pins, bad="torch")) == audit.FOUND
    assert re.fullmatch(r"torch \S+: PYSEC-1, fixed in 99\n", capsys.readouterr().out)


def test_what_the_feed_does_not_know_is_not_good(capsys: pytest.CaptureFixture[str]) -> None:
    """pip-audit itself ends well then."""
    assert audit.main(lambda pins: answer(pins, unknown="torch")) == audit.NOT_AUDITED
    told = capsys.readouterr()
    assert told.out == ""
    assert re.fullmatch(rf"not audited: 1 of {len(PINS)} pins are unknown to the database: torch \S+\n", told.err)


@pytest.mark.parametrize("said", ["", "Traceback (most recent call last):\n  File\nConnectionError: no route\n"])
@pytest.mark.parametrize("answered", ["", "{}", "[]", "half {"])
def test_without_the_network_it_is_one_line(said: str, answered: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main(lambda pins: (answered, said)) == audit.NOT_AUDITED
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n")) == ("", 1)
    reason = "ConnectionError: no route" if said else "no output"
    assert told.err == f"not audited: pip-audit failed: {reason}; check the network\n"
