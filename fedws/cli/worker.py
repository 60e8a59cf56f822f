"""``fedws worker`` and ``fedws evaluator``: one node with its data, served over a websocket."""

import argparse
import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fedws.cli.parser import Parser, add_common
from fedws.cli.security_flags import address, security, warnings
from fedws.cli.store_flags import blobs, shelf
from fedws.core.errors import UsageError

if TYPE_CHECKING:
    from fedws.cli.data_flags import Held
    from fedws.core.plan import Plan
    from fedws.node.worker import Worker
    from fedws.object_store.base import Shelf
    from fedws.privacy.audit_log import Audit
    from fedws.privacy.policy import Policy
    from fedws.security.credentials import Security

INTERRUPTED = 130
_BOUNDS = ("max_message", "silence", "heartbeat")
_WORKER = "Serve one node of a federation: a worker, or with --testing the evaluator."
_EVALUATOR = "Serve the evaluator: the node that holds the test set and scores the models."


def parser(prog: str, *, testing: bool = False) -> Parser:
    """The command's flags; ``testing`` is the default of ``--testing``."""
    flags = Parser(prog=prog, description=_EVALUATOR if testing else _WORKER)
    flags.add_argument("--id", required=True, help="the node's name, as alice")
    flags.add_argument(
        "-p", "--port", type=int, help="port to listen on, 0 for a free one (alice 8777 ... testing 8780)"
    )
    flags.add_argument("--host", help="address to listen on; 0.0.0.0 for all (localhost)")
    flags.add_argument(
        "--join",
        metavar="URL",
        help="dial out: where a run listens (--listen), or mqtt://USER@BROKER (password: $FEDWS_MQTT_PASSWORD)",
    )
    flags.add_argument(
        "--coordinator", metavar="ID", help="with --join: whose certificate is shown there (coordinator)"
    )
    flags.add_argument("--testing", action="store_true", default=testing, help="be the evaluator: hold the test set")
    flags.add_argument(
        "--digits",
        metavar="0-3",
        help="labels to hold, as 0-3 or 0,5 (alice 0-3, bob 4-6, charlie 7-9; a data set of your own: all samples)",
    )
    flags.add_argument(
        "--partition", metavar="NAME", help="split the data set: iid (needs no labels), dirichlet:0.5, shards:2"
    )
    flags.add_argument("--share", metavar="K/N", help="with --partition: hold share K (from 0) of N")
    flags.add_argument("--seed", metavar="N", type=int, default=1, help="seed of the partition (1)")
    flags.add_argument(
        "--nice", metavar="N", type=int, help="give way to other programs (a worker 10, the evaluator 0)"
    )
    flags.add_argument("--policy", metavar="FILE", help="what this node's owner allows, as TOML (see docs/security.md)")
    flags.add_argument(
        "--audit", metavar="FILE", help="where its answers are written down (the user's state directory)"
    )
    flags.add_argument("--notebook", metavar="NAME", help="accepted for old command lines; does nothing")
    flags.add_argument("--until-eof", action="store_true", help="end when standard input closes")
    add_common(flags, threads="threads that train (1) or score (one per core)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Load the data, say what is held, serve until told to end."""
    from fedws.cli.console import run_loop, set_up_logging
    from fedws.cli.data_flags import take, tell
    from fedws.core.plan import make
    from fedws.network.lookup import transport

    set_up_logging(arguments.verbose)
    if arguments.notebook is not None:
        print("--notebook does nothing: fedws holds the same data for every notebook", flush=True)
    proved = security(arguments, arguments.id)
    url = _url(arguments, proved)
    # What no plan could say of this node is wrong here too: its id, and the bounds of its links.
    bounds = {key: value for key in _BOUNDS if (value := getattr(arguments, key)) is not None}
    plan = make({"workers": {arguments.id: url}, "evaluator": {}, **bounds})
    transport(url).check(url, proved.tls, seal=proved.seal)
    policy, log = _owned(arguments, proved)  # wrong ones are said before data is loaded
    setting = blobs(arguments)
    _prepare(arguments)
    keeps = shelf(setting, plan.silence, proved)
    dataset = arguments.dataset or "mnist"
    held = take(arguments, dataset)  # before the loop, so that Ctrl+C ends a download
    node = _node(arguments, dataset, held, policy, log)

    def told() -> None:
        tell(arguments, dataset, held)
        for line in warnings(arguments.id, url, proved):
            print(line)

    return run_loop(_serve(arguments, node, plan, url, proved, keeps, told))


def _url(arguments: argparse.Namespace, proved: "Security") -> str:
    """Where the node is served, or joins. Raises UsageError."""
    from fedws.core.plan import DEFAULT_EVALUATOR, DEFAULT_WORKERS

    if arguments.join is not None:
        for flag in ("host", "port"):
            if getattr(arguments, flag) is not None:
                raise UsageError(f"--join dials out, and listens nowhere; leave out --{flag}")
        if arguments.coordinator is not None and (proved.tls is None or proved.tls.ca is None):
            raise UsageError("--coordinator is known by its certificate; this needs --tls-ca")
        return address(arguments.join, proved)
    if arguments.coordinator is not None:
        raise UsageError("--coordinator is for a node that dials out; it goes with --join")
    own = (DEFAULT_WORKERS | DEFAULT_EVALUATOR).get(arguments.id)
    port = arguments.port if arguments.port is not None or own is None else urlsplit(own).port
    if port is None:
        raise UsageError(f"--port is needed: {arguments.id} has no port of its own, as alice has 8777")
    if not 0 <= port < 65536:
        raise UsageError(f"--port {port} is no port; ports are 0 to 65535")
    host = arguments.host or "localhost"
    return address(f"{f'[{host}]' if ':' in host else host}:{port}", proved)


def _prepare(arguments: argparse.Namespace) -> None:
    """Priority, threads and plugins of this process."""
    import torch

    from fedws.core import registry

    if hasattr(os, "nice"):
        try:
            os.nice(arguments.nice if arguments.nice is not None else (0 if arguments.testing else 10))
        except OSError as error:
            raise UsageError(f"--nice {arguments.nice}: {error.strerror}") from None
    # An evaluator's threads score a batch each; torch's own would wait for each other at every layer, which beside
    # busy neighbours costs many times the work.
    torch.set_num_threads(1 if arguments.testing else _threads(arguments))
    for plugin in arguments.plugin or ():
        registry.load_plugin(plugin)


def _owned(arguments: argparse.Namespace, proved: "Security") -> tuple["Policy", "Audit"]:
    """What the node's owner allows, and where its answers are written down. Raises UsageError."""
    from fedws.privacy import audit_log
    from fedws.privacy.policy import Policy, load

    policy = load(Path(arguments.policy)) if arguments.policy is not None else Policy()
    if policy.coordinators is not None and not (proved.tls is not None and proved.tls.mutual):
        raise UsageError(
            f"--policy {arguments.policy}: coordinators are known by their certificates; "
            "this needs --tls-cert, --tls-key and --tls-ca"
        )
    return policy, audit_log.Audit(
        Path(arguments.audit) if arguments.audit is not None else audit_log.own(arguments.id)
    )


def _node(arguments: argparse.Namespace, dataset: str, held: "Held", policy: "Policy", log: "Audit") -> "Worker":
    from fedws.core import user_dirs
    from fedws.node.evaluator import create_evaluator
    from fedws.node.worker import Worker

    if len(held.data) < policy.samples:
        raise UsageError(
            f"--policy {arguments.policy}: at least {policy.samples} samples; {arguments.id} holds {len(held.data)}"
        )
    if arguments.testing:
        return create_evaluator(arguments.id, dataset, held.data, _threads(arguments), policy=policy, audit=log)
    state = user_dirs.own("state", "MistNet keeps uploads there") / "uploads" / arguments.id
    return Worker(arguments.id, dataset, held.data, labels=held.labels, policy=policy, audit=log, state=state)


async def _serve(
    arguments: argparse.Namespace,
    node: "Worker",
    plan: "Plan",
    url: str,
    proved: "Security",
    keeps: "Shelf | None",
    tell: Callable[[], None],
) -> int:
    from fedws.network.base import Limits
    from fedws.node.dial_out import joining
    from fedws.node.server import serving
    from fedws.protocol.messages import COORDINATOR

    done, served = asyncio.Event(), False
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None

    def end() -> None:
        done.set()
        if not served:  # it may wait for a broker
            main.cancel()

    def interrupt() -> None:
        if done.is_set():  # asked twice: a task that does not look up is not waited for
            os._exit(INTERRUPTED)
        end()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    limits = Limits(plan.max_message, plan.silence, plan.heartbeat)
    if arguments.join is None:
        there, does = serving(node, url, limits, proved, keeps), "is serving"
    else:
        there, does = joining(node, url, limits, proved, arguments.coordinator or COORDINATOR, keeps), "joins"
    tell()
    if arguments.until_eof:
        # A thread, since event loops cannot watch files and /dev/null.
        threading.Thread(target=_read_out, args=(lambda: loop.call_soon_threadsafe(end),), daemon=True).start()
    try:
        async with there as address:
            served = True
            print(f"{arguments.id} {does} at {address}", flush=True)
            await done.wait()
    except asyncio.CancelledError:
        if served or not done.is_set():
            raise
    return 0


def _read_out(then: Callable[[], object]) -> None:
    """Read standard input to its end, then call ``then``, unless the node has ended meanwhile."""
    with contextlib.suppress(OSError):  # closed from the start
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop is closed
        then()


def _threads(arguments: argparse.Namespace) -> int:
    if arguments.threads is not None and arguments.threads < 1:
        raise UsageError(f"--threads {arguments.threads}: at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(arguments.threads or (cores if arguments.testing else 1))
