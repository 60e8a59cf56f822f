"""The floor under every transport: a model's bytes echoed over plain blocking sockets.

It has the roles, commands and output of ``benchmarks.network.websocket_echo``, but no websocket, no masking and no
event loop. A worker receives the bytes into one buffer that it keeps, and sends them back. The coordinator has one
thread per worker.
"""

import socket
import threading
import time

from benchmarks.network.echo_options import MAX_ROUND, command


def fill(link: socket.socket, buffer: memoryview) -> bool:
    """Receive until ``buffer`` is full; return False if the peer has closed the link."""
    got = 0
    while got < len(buffer):
        count = link.recv_into(buffer[got:])
        if not count:
            return False
        got += count
    return True


def serving() -> None:
    """Echo messages until the link closes; its first eight bytes contain their length, in little-endian order."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print("port", server.getsockname()[1], flush=True)
        link, _ = server.accept()
    with link:
        head = memoryview(bytearray(8))
        assert fill(link, head)
        buffer = memoryview(bytearray(int.from_bytes(head, "little")))
        while fill(link, buffer):
            link.sendall(buffer)


def driving(size: int, rounds: int, ports: list[int]) -> None:
    """Time ``rounds`` rounds of echoes, and print the seconds of each."""
    model = b"\x5a" * size
    links = [socket.create_connection(("127.0.0.1", port), timeout=MAX_ROUND) for port in ports]
    buffers = [memoryview(bytearray(size)) for _ in ports]
    for link in links:
        link.sendall(size.to_bytes(8, "little"))

    def round_trip(link: socket.socket, buffer: memoryview) -> None:
        link.sendall(model)
        assert fill(link, buffer), "the echo ended early"

    for _ in range(rounds):
        begun = time.monotonic()
        trips = [threading.Thread(target=round_trip, args=pair) for pair in zip(links, buffers, strict=True)]
        for trip in trips:
            trip.start()
        for trip in trips:
            trip.join()
        print("round", time.monotonic() - begun, flush=True)
    for link in links:
        link.close()


if __name__ == "__main__":
    command("python -m benchmarks.network.socket_echo", serving, driving)
