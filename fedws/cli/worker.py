"""The commands ``fedws worker`` and ``fedws evaluator``, which serve one node with its data over a websocket."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fedws.cli.console import INTERRUPTED_STATUS
from fedws.cli.parser import Parser, name_flags_in_errors
from fedws.cli.security_flags import build_credentials, complete_url, security_warnings
from fedws.cli.shared_flags import add_node_flags
from fedws.cli.store_flags import build_store_config, open_configured_store
from fedws.core.errors import UsageError

if TYPE_CHECKING:
    from fedws.cli.node_data import NodeData
    from fedws.core.plan import Plan
    from fedws.node.worker import Worker
    from fedws.object_store.base import BodyStore
    from fedws.privacy.audit_log import AuditLog
    from fedws.privacy.policy import Policy
    from fedws.security.credentials import Credentials

_LIMIT_FLAGS = ("max_message_bytes", "peer_timeout", "ping_interval")
_WORKER_DESCRIPTION = "Serve one node of a federation, a worker or with --evaluator the evaluator."
_EVALUATOR_DESCRIPTION = "Serve the evaluator, the node that holds the test set and evaluates the models."


def build_parser(prog: str, *, is_evaluator: bool = False, is_demo_script: bool = False) -> Parser:
    """Return the parser of the command, with ``is_evaluator`` as the default of ``--evaluator``."""
    flags = Parser(
        prog=prog,
        description=_EVALUATOR_DESCRIPTION if is_evaluator else _WORKER_DESCRIPTION,
        accept_former_names=is_demo_script,
    )
    flags.add_argument("--id", required=True, help="name of the node, such as alice")
    flags.add_argument(
        "-p", "--port", type=int, help="port to listen on; 0 for a free one (8777 for alice ... 8780 for testing)"
    )
    flags.add_argument("--host", help="address to listen on; 0.0.0.0 for all (localhost)")
    flags.add_argument(
        "--join",
        metavar="URL",
        help="dial out to the --listen address of a run, or to mqtt://USER@BROKER (password: $FEDWS_MQTT_PASSWORD)",
    )
    flags.add_argument(
        "--coordinator", metavar="ID", help="with --join: id of the coordinator in its certificate (coordinator)"
    )
    flags.add_argument(
        "--evaluator",
        dest="is_evaluator",
        action="store_true",
        default=is_evaluator,
        help="serve the evaluator, which holds the test set",
    )
    flags.add_argument(
        "--labels",
        metavar="0-3",
        help="labels to hold, such as 0-3 or 0,5 (alice 0-3, bob 4-6, charlie 7-9; of your own data set, all samples)",
    )
    flags.add_argument(
        "--partition",
        metavar="NAME",
        help="rule that splits the data set: iid (needs no labels), dirichlet:0.5, shards:2",
    )
    flags.add_argument("--share", metavar="K/N", help="with --partition: share to hold, number K (from 0) of N")
    flags.add_argument("--partition-seed", metavar="N", type=int, default=1, help="seed of the partition (1)")
    flags.add_argument(
        "--nice",
        metavar="N",
        type=int,
        help="amount by which to lower the process priority (10 for a worker, 0 for the evaluator)",
    )
    flags.add_argument(
        "--policy", metavar="FILE", help="policy of this node's owner, as TOML (see docs/topics/security.md)"
    )
    flags.add_argument(
        "--audit-log", metavar="FILE", help="audit log of the node's answers (in the user's state directory)"
    )
    if is_demo_script:
        flags.add_argument("--notebook", metavar="NAME", help="accepted for old command lines; has no effect")
    flags.add_argument("--until-eof", action="store_true", help="exit when standard input closes")
    add_node_flags(flags, threads_help="number of threads that train (1) or evaluate (one per core)")
    return flags


def main(arguments: argparse.Namespace) -> int:
    """Load the data, print what the node holds, and serve it until a signal ends the process."""
    from fedws.cli.console import run_loop, set_up_logging
    from fedws.cli.node_data import load_node_data, print_node_data
    from fedws.core.plan import build_plan
    from fedws.core.validation import check_node_id
    from fedws.network.lookup import find_transport

    set_up_logging(arguments.verbose)
    try:
        check_node_id(arguments.id)
    except ValueError as error:
        raise UsageError(f"--id: {error}") from None
    if getattr(arguments, "notebook", None) is not None:
        print("--notebook has no effect: fedws holds the same data for every notebook", flush=True)
    credentials = build_credentials(arguments, arguments.id)
    url = _build_url(arguments, credentials)
    # Build a plan, since it checks the address of the node and the limits of its links.
    limits = {key: value for key in _LIMIT_FLAGS if (value := getattr(arguments, key)) is not None}
    plan = name_flags_in_errors(lambda: build_plan({"workers": {arguments.id: url}, "evaluator": {}, **limits}), limits)
    find_transport(url).check_url(url, credentials.tls, encrypt_payloads=credentials.encrypt_payloads)
    policy, log = _load_policy_and_log(arguments, credentials)  # report errors before loading data
    store_config = build_store_config(arguments)
    _set_up_process(arguments)
    body_store = open_configured_store(store_config, plan.peer_timeout, credentials)
    dataset = arguments.dataset or "mnist"
    node_data = load_node_data(arguments, dataset)  # before the event loop, so that Ctrl+C ends a download
    node = _build_node(arguments, dataset, node_data, policy, log)

    def print_description() -> None:
        print_node_data(arguments, dataset, node_data)
        for line in security_warnings(arguments.id, url, credentials):
            print(line)

    status = run_loop(_serve(arguments, node, plan, url, credentials, body_store, print_description))
    # The interpreter would take most of a second to unload torch, and nothing is left to save.
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.flush()
    os._exit(status)


def _build_url(arguments: argparse.Namespace, credentials: "Credentials") -> str:
    """Return the URL that the node serves or joins.

    Raise UsageError for flags that cannot be combined, and for a missing or wrong port.
    """
    from fedws.core.demo_nodes import DEFAULT_EVALUATOR, DEFAULT_WORKERS

    if arguments.join is not None:
        for flag in ("host", "port"):
            if getattr(arguments, flag) is not None:
                raise UsageError(f"--join cannot be combined with --{flag}; remove one of them")
        if arguments.coordinator is not None and (credentials.tls is None or credentials.tls.ca is None):
            raise UsageError("--coordinator requires --tls-ca, which verifies the certificate of the coordinator")
        return complete_url(arguments.join, credentials)
    if arguments.coordinator is not None:
        raise UsageError("--coordinator requires --join")
    default_url = (DEFAULT_WORKERS | DEFAULT_EVALUATOR).get(arguments.id)
    port = arguments.port if arguments.port is not None or default_url is None else urlsplit(default_url).port
    if port is None:
        raise UsageError(f"--port is required: {arguments.id} has no default port; choose one, or 0 for a free port")
    if not 0 <= port < 65536:
        raise UsageError(f"--port: {port} is not a valid port; use 0 to 65535")
    host = (arguments.host or "localhost").removeprefix("[").removesuffix("]")  # an IPv6 address, as in a URL
    return complete_url(f"{f'[{host}]' if ':' in host else host}:{port}", credentials)


def _set_up_process(arguments: argparse.Namespace) -> None:
    """Set the priority and the threads of this process, and load its plugins."""
    import torch

    from fedws.core.plugins import load_plugins

    if hasattr(os, "nice"):
        try:
            os.nice(arguments.nice if arguments.nice is not None else (0 if arguments.is_evaluator else 10))
        except OSError as error:
            raise UsageError(f"--nice {arguments.nice}: {error.strerror}") from None
    # Each thread of an evaluator evaluates its own batch. Threads of torch wait for each other at every layer, which
    # takes many times longer on a busy machine.
    torch.set_num_threads(1 if arguments.is_evaluator else _count_threads(arguments))
    load_plugins(arguments.plugins or ())


def _load_policy_and_log(arguments: argparse.Namespace, credentials: "Credentials") -> tuple["Policy", "AuditLog"]:
    """Return the policy of the node's owner and the audit log of the node's answers.

    Raise UsageError if the policy is not valid, or restricts coordinators without mutual TLS.
    """
    from fedws.privacy import audit_log
    from fedws.privacy.policy import Policy, load_policy

    policy = load_policy(Path(arguments.policy)) if arguments.policy is not None else Policy()
    if policy.coordinators is not None and not (credentials.tls is not None and credentials.tls.is_mutual):
        raise UsageError(
            f"--policy {arguments.policy}: coordinators are identified by their certificates; "
            "add --tls-cert, --tls-key and --tls-ca"
        )
    return policy, audit_log.AuditLog(
        Path(arguments.audit_log) if arguments.audit_log is not None else audit_log.default_audit_path(arguments.id)
    )


def _build_node(
    arguments: argparse.Namespace, dataset: str, node_data: "NodeData", policy: "Policy", log: "AuditLog"
) -> "Worker":
    from fedws.core import user_dirs
    from fedws.node.evaluator import create_evaluator
    from fedws.node.worker import Worker

    if len(node_data.data) < policy.min_samples:
        problem = f"{arguments.id} holds {len(node_data.data)} samples, expected at least {policy.min_samples}"
        raise UsageError(f"--policy {arguments.policy}: {problem}")
    if arguments.is_evaluator:
        return create_evaluator(
            arguments.id, dataset, node_data.data, _count_threads(arguments), policy=policy, audit_log=log
        )
    hint = "set HOME or XDG_STATE_HOME to store the state of the worker's tasks"
    state = user_dirs.find_user_dir("state", hint) / "nodes" / arguments.id
    return Worker(
        arguments.id,
        dataset,
        node_data.data,
        labels=node_data.declared_labels,
        policy=policy,
        audit_log=log,
        state_dir=state,
    )


async def _serve(
    arguments: argparse.Namespace,
    node: "Worker",
    plan: "Plan",
    url: str,
    credentials: "Credentials",
    store: "BodyStore | None",
    print_intro: Callable[[], None],
) -> int:
    from fedws.network.base import Limits
    from fedws.network.lookup import find_transport
    from fedws.node.dial_out import join_run
    from fedws.node.server import serve
    from fedws.protocol.messages import DEFAULT_COORDINATOR_ID

    done, served = asyncio.Event(), False
    loop, main = asyncio.get_running_loop(), asyncio.current_task()
    assert main is not None

    def end() -> None:
        done.set()
        if not served:  # it may still wait for a broker
            main.cancel()

    def interrupt() -> None:
        if done.is_set():  # second signal: do not wait for a task that does not stop
            os._exit(INTERRUPTED_STATUS)
        end()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    limits = Limits(plan.max_message_bytes, plan.peer_timeout, plan.ping_interval)
    if arguments.join is None:
        service, verb = serve(node, url, limits, credentials, store), "is serving"
    else:
        service, verb = (
            join_run(node, url, limits, credentials, arguments.coordinator or DEFAULT_COORDINATOR_ID, store),
            "is connected to the broker" if find_transport(url).brokered else "joins",
        )
    print_intro()
    if arguments.until_eof:
        # A thread reads it, since event loops cannot watch files or /dev/null.
        threading.Thread(target=_wait_for_eof, args=(lambda: loop.call_soon_threadsafe(end),), daemon=True).start()
    try:
        async with service as address:
            served = True
            print(f"{arguments.id} {verb} at {address}", flush=True)
            await done.wait()
    except asyncio.CancelledError:
        if served or not done.is_set():
            raise
    return 0


def _wait_for_eof(on_eof: Callable[[], object]) -> None:
    """Read standard input to its end, then call ``on_eof`` unless the node has already ended."""
    with contextlib.suppress(OSError):  # closed from the start
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop is closed
        on_eof()


def _count_threads(arguments: argparse.Namespace) -> int:
    if arguments.threads is not None and arguments.threads < 1:
        raise UsageError(f"--threads: expected at least 1, got {arguments.threads}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(arguments.threads or (cores if arguments.is_evaluator else 1))
