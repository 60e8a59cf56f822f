"""Log lines that peers cause: a few at once, then one in ten seconds."""

import logging

import pytest

from fedws.core.rate_limited_log import RateLimitedLog


def test_strangers_fill_no_log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    monkeypatch.setattr("fedws.core.rate_limited_log.time.monotonic", lambda: now[0])
    complaints = RateLimitedLog("alice")
    for _ in range(100):
        complaints.log("refused a caller")
        now[0] += 1
    assert len(caplog.messages) == 10
    assert caplog.messages[0] == "alice: refused a caller"
    assert caplog.messages[1] == "alice: refused a caller (9 similar lines suppressed)"


def test_a_few_lines_may_come_at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As of a run that begins and ends; then they are as far apart as others, also after a long time."""
    caplog.set_level(logging.INFO, "fedws")
    now = [100.0]
    monkeypatch.setattr("fedws.core.rate_limited_log.time.monotonic", lambda: now[0])
    lines = RateLimitedLog("alice", burst=3)
    for _ in range(2):
        assert [lines.log("run a begins", logging.INFO) for _ in range(5)] == [True] * 3 + [False] * 2
        now[0] += 1000
    assert len(caplog.messages) == 6 and caplog.records[0].levelname == "INFO"
    assert caplog.messages[3] == "alice: run a begins (2 similar lines suppressed)"
    now[0] += 10 - 1000
    assert [lines.log("run a begins") for _ in range(2)] == [True, False]
