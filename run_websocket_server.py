#!/usr/bin/env python3
"""Starts a worker, or with --testing the evaluator: the websocket server that a coordinator dials."""

import sys

from fedws.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("worker", "run_websocket_server.py", sys.argv[1:], is_demo_script=True))
