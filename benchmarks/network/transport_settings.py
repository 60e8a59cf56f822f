"""The ways in which a coordinator and its workers reach each other, with the servers and flags that each needs."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.job import PATIENCE, free_ports
from benchmarks.harness.processes import ENVIRONMENT, Child, Crew

WAYS = ("dialled", "joined", "mqtt", "sealed", "file", "s3")
"""Names of the ways.

- dialled: the coordinator connects to the workers.
- joined: the workers dial out to the coordinator.
- mqtt: all messages go over a broker, which can read them.
- sealed: all messages go over a broker, encrypted.
- file: as dialled, with bodies in a shared folder.
- s3: as dialled, with bodies in an S3 store.
"""
BUCKET = "fedws-bench"
S3 = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass(frozen=True)
class Way:
    """A way whose server is running, if it has one."""

    join: str = ""
    """URL to which the nodes dial out, or an empty string; see ``benchmarks.harness.job.Job``."""
    flags: tuple[str, ...] = ()
    """Flags of every process of the job."""
    between: Child | None = None
    """Process of the broker or store, if there is one."""


def ready(name: str, crew: Crew) -> Way:
    """Start the server that the way ``name`` needs, and return the way.

    The server ends with the crew. Raise RuntimeError if Mosquitto is not installed.
    """
    (port,) = free_ports(1)
    if name == "dialled":
        return Way()
    if name == "joined":
        return Way(f"ws://127.0.0.1:{port}")
    folder = tempfile.TemporaryDirectory(prefix=f"fedws-bench-{name}-")
    crew.callback(folder.cleanup)
    if name == "file":
        return Way(flags=("--body-store", Path(folder.name).as_uri()))
    if name == "s3":
        return _s3(crew, port)
    broker = _broker(crew, port, Path(folder.name))
    return Way(f"mqtt://127.0.0.1:{port}", ("--encrypt-payloads",) if name == "sealed" else (), broker)


def _broker(crew: Crew, port: int, folder: Path) -> Child:
    """Start Mosquitto as Debian packages it, but with the default packet size of Mosquitto 2.1."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise RuntimeError("program 'mosquitto' not found; install it with apt-get install mosquitto")
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "max_packet_size 2000000", "log_dest stderr"]
    (folder / "mosquitto.conf").write_text("\n".join(lines))
    broker = crew.run("broker", program, "-c", str(folder / "mosquitto.conf"))
    broker.wait_for("running", PATIENCE)
    return broker


def _s3(crew: Crew, port: int) -> Way:
    """Start moto's server, which is written in Python and keeps all data in memory; its peak memory is not typical."""
    import boto3

    place = f"http://127.0.0.1:{port}"
    ENVIRONMENT.update(S3, AWS_ENDPOINT_URL=place)
    server = crew.start("store", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    server.wait_for("Running on", PATIENCE)
    keys = {"aws_access_key_id": "benchmark", "aws_secret_access_key": "benchmark", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=place, **keys).create_bucket(Bucket=BUCKET)
    return Way(flags=("--body-store", f"s3://{BUCKET}/runs"), between=server)
