"""Entry point of ``python -m evaluator``, which serves an evaluator until Ctrl+C."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys

import fedws
from evaluator.arguments import build_url, parse_arguments

INTERRUPTED_STATUS = 130
"""Exit status that shells report for a command that was ended with Ctrl+C."""


def main() -> int:
    """Serve the node that the command line describes, and return the exit status."""
    arguments = parse_arguments()
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger().handlers[0].addFilter(fedws.PRINTABLE_FILTER)
    logging.getLogger("fedws").setLevel(logging.INFO)
    try:
        credentials = load_credentials(arguments)  # report a wrong key before downloading a data set
        asyncio.run(serve(build_node(arguments), build_url(arguments), credentials))
    except KeyboardInterrupt:  # raised before the signal handlers are installed
        print("python -m evaluator: stopped", file=sys.stderr)
        return INTERRUPTED_STATUS
    except fedws.FedwsError as error:
        print(f"python -m evaluator: {error}", file=sys.stderr)
        return 2 if isinstance(error, fedws.UsageError) else 1
    return 0


def load_credentials(arguments: argparse.Namespace) -> "fedws.Credentials":
    """Return the credentials that connecting coordinators must prove.

    Raise UsageError if the network key cannot be read or created.
    """
    if arguments.insecure:
        return fedws.Credentials(None)
    key = fedws.load_network_key(arguments.key_file)
    if key.is_new:
        print(f"created a network key in {key.origin}; copy it to the other devices of the run", flush=True)
    return fedws.Credentials(key)


def build_node(arguments: argparse.Namespace) -> "fedws.Worker":
    """Load the test set and return the node that holds it.

    Raise UsageError if a plugin or the data set cannot be loaded.
    """
    import torch  # imported here so that --help does not load it

    from evaluator.task import evaluate

    torch.set_num_threads(1)  # torch's threads would compete with those of the node, which evaluate one batch each
    for plugin in arguments.plugin:
        fedws.load_plugin(plugin)
    data = fedws.load_dataset(arguments.dataset, arguments.data_dir, train=False)
    print(f"{arguments.id} holds {len(data):,} test samples of {arguments.dataset}", flush=True)
    return fedws.Worker(
        arguments.id,
        arguments.dataset,
        data,
        tasks={"evaluate": evaluate},
        evaluator=True,
        threads=os.cpu_count() or 1,
    )


async def serve(node: "fedws.Worker", url: str, credentials: "fedws.Credentials") -> None:
    """Serve ``node`` at ``url`` until the process receives SIGINT or SIGTERM.

    A second signal ends the process immediately.
    """
    stopped = asyncio.Event()

    def stop() -> None:
        if stopped.is_set():  # second signal: do not wait for a task that takes long to stop
            os._exit(INTERRUPTED_STATUS)
        stopped.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows, where Ctrl+C raises KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, stop)
    async with fedws.serve(node, url, credentials=credentials) as address:
        print(f"{node.node} is serving at {address}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    sys.exit(main())
