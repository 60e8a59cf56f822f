#!/usr/bin/env python3
"""Script that starts the coordinator, the websocket client that connects to the workers and drives the run."""

import sys

from fedws.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("run", "run_websocket_client.py", sys.argv[1:], is_demo_script=True))
