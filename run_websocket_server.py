#!/usr/bin/env python3
"""Script that starts a worker, or with ``--testing`` the evaluator, as a websocket server for the coordinator."""

import sys

from fedws.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("worker", "run_websocket_server.py", sys.argv[1:], is_demo_script=True))
