"""Peers that break the protocol: each ends its own association and nothing else."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from ingestion_functions.services import Services
from tests.dicom_samples import instance, part10
from tests.ingestion_functions.cstore_scu import Scu
from tests.ingestion_functions.test_listen import Start, start

__all__ = ["start"]

pytestmark = pytest.mark.requirement("D45")


def still_serves(scu: Scu) -> None:
    assert scu.send(part10(instance()))[0].Status == 0x0000


def wait_until(what: str, check: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


def closed(connection: socket.socket) -> bool:
    """Whether the listener has ended the connection (an A-ABORT may come first)."""
    connection.settimeout(20)
    try:
        while connection.recv(4096):
            continue
    except ConnectionError:
        pass
    return True


@contextmanager
def connected(scu: Scu) -> Iterator[socket.socket]:
    with socket.create_connection((scu.host, scu.port), 10) as connection:
        yield connection


def associate_request(contexts: int = 1) -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 9.3.2) for CT images."""

    def item(kind: int, content: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(content)) + content

    asked = b"".join(
        item(
            0x20,
            bytes([2 * number + 1, 0, 0, 0])
            + item(0x30, CTImageStorage.encode())
            + item(0x40, ImplicitVRLittleEndian.encode()),
        )
        for number in range(contexts)
    )
    user = item(0x50, item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3"))
    body = struct.pack(">HH16s16s32x", 1, 0, b"IMAGING".ljust(16), b"MODALITY".ljust(16))
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + asked + user
    return struct.pack(">BBI", 1, 0, len(body)) + body


def accepted(connection: socket.socket) -> None:
    connection.settimeout(10)
    connection.sendall(associate_request())
    head = connection.recv(6)
    assert head[0] == 2, "not an A-ASSOCIATE-AC"
    left = int.from_bytes(head[2:], "big")
    while left:
        left -= len(connection.recv(left))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        bytes(1000),
        b"\xff" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40),  # a TLS hello to a plain port
        struct.pack(">BBI", 1, 0, 68) + b"\xff" * 68,
        struct.pack(">BBI", 4, 0, 8) + bytes(8),  # data before an association
        struct.pack(">BBI", 1, 0, 4) + bytes(4),
    ],
)
def test_garbage_instead_of_a_request(start: Start, parts: Services, garbage: bytes) -> None:
    scu = start()
    with connected(scu) as connection:
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        assert closed(connection)
    still_serves(scu)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_pdu_that_claims_four_gigabytes(start: Start, parts: Services, when: str) -> None:
    scu = start()
    before = psutil.Process().memory_info().rss
    with connected(scu) as connection:
        if when == "after":
            accepted(connection)
        connection.sendall(struct.pack(">BBI", 4 if when == "after" else 1, 0, 0xFFFFFFF0))
        try:
            for _ in range(64):
                connection.sendall(bytes(1024 * 1024))
        except ConnectionError:
            pass
        assert closed(connection)
    assert psutil.Process().memory_info().rss - before < 32 * 1024 * 1024
    still_serves(scu)


def test_a_half_open_connection_ends_by_itself(start: Start, parts: Services) -> None:
    scu = start(listen_associate_s=0.5, listen_idle_s=0.5)
    with connected(scu) as silent, connected(scu) as half, connected(scu) as idle:
        half.sendall(associate_request()[:40])
        accepted(idle)
        still_serves(scu)
        for connection in (silent, half, idle):
            assert closed(connection)
    still_serves(scu)


def test_a_pdu_that_drips_ends_by_itself(start: Start, parts: Services) -> None:
    """Each byte comes in time, the PDU does not."""
    scu = start(listen_idle_s=0.6)
    with connected(scu) as connection:
        accepted(connection)
        connection.sendall(struct.pack(">BBI", 4, 0, 1000))
        connection.settimeout(0.05)
        ended = False
        for _ in range(200):
            try:
                connection.sendall(b"\0")
                ended = connection.recv(10) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
            if ended:
                break
        assert ended
    still_serves(scu)


def test_more_connections_than_are_served(start: Start, parts: Services) -> None:
    """Those beyond the bound are closed; once the silent ones have timed out, a sender comes in."""
    scu = start(listen_max_associations=2, listen_associate_s=1.0)
    threads = psutil.Process().num_threads()
    flood = [socket.create_connection((scu.host, scu.port), 10) for _ in range(120)]
    assert psutil.Process().num_threads() < threads + 100
    for connection in flood:
        assert closed(connection)
        connection.close()

    def comes_in() -> bool:
        with scu.association() as association:
            return association.is_established

    wait_until("an association after the flood", comes_in)
    still_serves(scu)


@pytest.mark.parametrize(
    "command",
    [
        b"\xff" * 60,
        b"",
        struct.pack("<HHI", 0, 0x0100, 2) + struct.pack("<H", 0x7777),  # an unknown command
        struct.pack("<HHI", 0, 0x0100, 2) + struct.pack("<H", 1),  # a C-STORE that says nothing more
    ],
)
def test_a_broken_command_set(start: Start, parts: Services, command: bytes) -> None:
    scu = start()
    with connected(scu) as connection:
        accepted(connection)
        value = struct.pack(">IBB", len(command) + 2, 1, 3) + command
        connection.sendall(struct.pack(">BBI", 4, 0, len(value)) + value)
        connection.shutdown(socket.SHUT_WR)
        assert closed(connection)
    still_serves(scu)


def test_a_command_set_without_end(start: Start, parts: Services) -> None:
    scu = start()
    with connected(scu) as connection:
        accepted(connection)
        before = psutil.Process().memory_info().rss
        fragment = struct.pack(">IBB", 16002, 1, 1) + bytes(16000)
        try:
            for _ in range(4000):
                connection.sendall(struct.pack(">BBI", 4, 0, len(fragment)) + fragment)
        except ConnectionError:
            pass
        assert psutil.Process().memory_info().rss - before < 32 * 1024 * 1024
    still_serves(scu)


def test_requests_sent_without_waiting(start: Start, parts: Services) -> None:
    """No asynchronous operations were negotiated: what does not wait for answers is ended, not queued."""
    scu = start()
    file = part10(instance(Rows=512, Columns=512, PixelData=bytes(512 * 512 * 2)))
    with scu.association(file) as association:
        context = next(item for item in association.accepted_contexts if item.abstract_syntax == CTImageStorage)
        for number in range(50):
            _send_only(association, file, int(context.context_id or 0), number + 1)
        wait_until("the end of the association", lambda: not association.is_alive() or association.is_aborted)
    still_serves(scu)


def _send_only(association: Association, file: bytes, context: int, number: int) -> None:
    import io

    request = C_STORE()
    request.MessageID = number
    request.Priority = 0
    request.AffectedSOPClassUID = CTImageStorage
    request.AffectedSOPInstanceUID = f"1.2.{number}"
    request.DataSet = io.BytesIO(file[400:])
    association.dimse.send_msg(request, context)


def test_a_sender_that_hangs_up_in_the_middle(start: Start, parts: Services) -> None:
    """Nothing is stored, no file stays behind."""
    scu = start()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with connected(scu) as connection:
            accepted(connection)
            fragment = struct.pack(">IBB", 16002, 1, 0) + bytes(16000)
            for _ in range(100):
                connection.sendall(struct.pack(">BBI", 4, 0, len(fragment)) + fragment)
    still_serves(scu)
    wait_until("the descriptors to be given back", lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 2)
