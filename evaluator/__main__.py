"""``python -m evaluator``: serve an evaluator until Ctrl+C."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys

import fedws
from evaluator.task import evaluate


def main() -> int:
    """Parse the command line, load the test set and serve it."""
    parser = argparse.ArgumentParser(prog="python -m evaluator", description="Serve a dedicated evaluator.")
    parser.add_argument("--id", default="testing", help="name of the node (testing)")
    parser.add_argument("--host", default="localhost", help="address to listen on; 0.0.0.0 for all (localhost)")
    parser.add_argument("--port", type=int, default=8780, help="port to listen on; 0 for a free one (8780)")
    parser.add_argument("--dataset", default="mnist", help="registered data set (mnist)")
    parser.add_argument("--data-dir", metavar="DIR", help="folder of the data set (else $FEDWS_DATA)")
    parser.add_argument(
        "--plugin", action="append", default=[], metavar="FILE", help="local file that registers pieces"
    )
    parser.add_argument("--insecure", action="store_true", help="serve without a network key")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger().handlers[0].addFilter(fedws.PRINTABLE_FILTER)
    try:
        for plugin in arguments.plugin:
            fedws.load_plugin(plugin)
        data = fedws.load_dataset(arguments.dataset, arguments.data_dir, train=False)
        credentials = fedws.Credentials(None if arguments.insecure else fedws.load_network_key())
        node = fedws.Worker(
            arguments.id,
            arguments.dataset,
            data,
            tasks={"evaluate": evaluate},
            evaluator=True,
            threads=os.cpu_count() or 1,
        )
        asyncio.run(serve(node, f"ws://{arguments.host}:{arguments.port}", credentials))
    except fedws.FedwsError as error:
        print(f"python -m evaluator: {error}", file=sys.stderr)
        return 1
    return 0


async def serve(node: fedws.Worker, url: str, credentials: fedws.Credentials) -> None:
    """Serve ``node`` at ``url`` until the process gets SIGINT or SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # not on Windows, where Ctrl+C raises KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with fedws.serve(node, url, credentials=credentials) as address:
        print(f"{node.node} is serving at {address}", flush=True)
        await stopped.wait()


if __name__ == "__main__":
    sys.exit(main())
