"""pynetdicom's server with bounds on what a peer can make it hold: connections, time, PDU length, messages in wait.

PS3.8 lets a PDU announce up to 4 GiB and sets no time in which it must come; pynetdicom takes both at their word, keeps
a data set in memory while it arrives, and does the TLS handshake in the thread that accepts. All four are bounded here.
"""

from __future__ import annotations

import io
import socket
import socketserver
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.transport import AssociationSocket, RequestHandler, ThreadedAssociationServer

from imaging_core import telemetry

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer
    from pynetdicom.association import Association
    from pynetdicom.pdu_primitives import P_DATA

__all__ = ["BoundedServer", "Bounds", "ReceivedDataSet"]

# A-ASSOCIATE-RQ with 128 presentation contexts of 60 transfer syntaxes each stays below this
_LONGEST_ASSOCIATE = 1024 * 1024
_LONGEST_COMMAND = 64 * 1024
_IN_MEMORY = 8 * 1024 * 1024
# C-STORE is answered before the next one comes (no asynchronous operations are negotiated, PS3.7 D.3.3.3)
_MOST_WAITING = 2
_CHUNK = 256 * 1024
log = telemetry.get_logger(__name__)


class Bounds:
    """What a peer may ask for.

    Parameters
    ----------
    instance_bytes : int
        Of one data set; the rest of a longer one is read and dropped, so that the sender can be told.
    pdu_bytes : int
        Length of a P-DATA-TF PDU that was announced to the peer.
    connections : int
        TCP connections at once, associated or not.
    associate_s, pdu_s : float
        Seconds for TLS and negotiation, and for one PDU to arrive whole.
    """

    def __init__(self, instance_bytes: int, pdu_bytes: int, connections: int, associate_s: float, pdu_s: float) -> None:
        self.instance_bytes = instance_bytes
        self.pdu_bytes = max(pdu_bytes + 12, _LONGEST_ASSOCIATE)
        self.connections = connections
        self.associate_s = associate_s
        self.pdu_s = pdu_s


class ReceivedDataSet(io.BytesIO):
    """The data set of one C-STORE as it arrives: small in memory, large in a file that has no name.

    pynetdicom wants a `BytesIO` to write to; as such it stays empty.

    Parameters
    ----------
    limit : int
        Bytes that are kept; `size` goes on counting.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115  # `close` is called
        self.size = 0

    def write(self, data: Buffer, /) -> int:
        """Keep `data`, or only count it once the limit is passed."""
        length = memoryview(data).nbytes
        self.size += length
        if self.size <= self._limit:
            self._file.write(data)
        return length

    def read_into(self, file: IO[bytes]) -> None:
        """Copy the encoded data set to `file`."""
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK):
            file.write(chunk)

    def close(self) -> None:
        """Forget it."""
        self._file.close()
        super().close()


class _BoundedMessages(DIMSEServiceProvider):
    """Puts fragments together into messages, within bounds; what breaks them ends the association (A-ABORT)."""

    def __init__(self, assoc: Association, bounds: Bounds, answered: Callable[[Association], None]) -> None:
        super().__init__(assoc)
        self._bounds = bounds
        self._answered = answered

    def send_msg(self, primitive: Any, context_id: int) -> None:
        super().send_msg(primitive, context_id)
        self._answered(self.assoc)

    def receive_primitive(self, primitive: P_DATA) -> None:
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = ReceivedDataSet(self._bounds.instance_bytes)
        try:
            super().receive_primitive(primitive)
        except Exception as error:  # pynetdicom raises many types on a broken command set, and would lose its thread
            self._abort(f"command set unreadable ({type(error).__name__})")
            return
        if self.message is not None and self.message.encoded_command_set.tell() > _LONGEST_COMMAND:
            self._abort("command set too long")
        elif self.msg_queue.qsize() > _MOST_WAITING:
            self._abort("messages sent without waiting for answers")

    def _abort(self, reason: str) -> None:
        log.warning("association aborted", step="listen", reason=reason)
        self.message = None
        self.dul.event_queue.put("Evt19")  # invalid PDU: PS3.8 9.2.3, action AA-8


class _BoundedSocket(AssociationSocket):
    """Reads a PDU only of a length that was allowed, and only for so long."""

    def __init__(self, assoc: Association, client_socket: socket.socket, bounds: Bounds) -> None:
        super().__init__(assoc, client_socket=client_socket)
        self._bounds = bounds

    def recv(self, nr_bytes: int) -> bytearray:
        if self.socket is None:
            raise OSError("closed")
        if nr_bytes > self._bounds.pdu_bytes:
            log.warning("association aborted", step="listen", reason="PDU too long", bytes=nr_bytes)
            raise OSError("PDU longer than allowed")
        received = bytearray(nr_bytes)
        view = memoryview(received)
        deadline = time.monotonic() + self._bounds.pdu_s
        at = 0
        while at < nr_bytes:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("PDU not complete in time")
            self.socket.settimeout(left)
            number = self.socket.recv_into(view[at:])
            if number == 0:
                view.release()
                del received[at:]
                break
            at += number
        self.socket.settimeout(self._bounds.pdu_s)  # for what is sent
        return received


class _Connection(RequestHandler):
    """One connection, in a thread of its own: TLS first, then an association with bounded parts."""

    server: BoundedServer

    def handle(self) -> None:
        request: socket.socket = self.request
        request.settimeout(self.server.bounds.associate_s)
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = self.server.tls
        if context is not None:
            try:
                self.request = context.wrap_socket(request, server_side=True)
            except (OSError, ValueError) as error:
                log.warning("TLS refused", step="listen", address=self.client_address[0], error=type(error).__name__)
                self.server.shutdown_request(request)
                return
        super().handle()

    def _create_association(self) -> Association:
        association = super()._create_association()
        bounds = self.server.bounds
        association.dul.event_queue.get_nowait()  # "connected", which the socket below says again
        association.dul.socket = _BoundedSocket(association, self.request, bounds)
        association.dimse = _BoundedMessages(association, bounds, self.server.answered)
        return association


class BoundedServer(ThreadedAssociationServer):
    """Accepts connections; the handshake is not done in this thread.

    Parameters
    ----------
    bounds : Bounds
        What a peer may ask for.
    tls : ssl.SSLContext or None
        None: plain TCP.
    answered : callable
        Told of each answer once it is on its way.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        *arguments: Any,
        bounds: Bounds,
        tls: ssl.SSLContext | None,
        answered: Callable[[Association], None],
        **more: Any,
    ) -> None:
        self.bounds = bounds
        self.tls = tls
        self.answered = answered
        super().__init__(*arguments, **{**more, "request_handler": _Connection})
        self._in_handshake = threading.Semaphore(bounds.connections)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Refuse a connection beyond the bound before a thread is spent on it."""
        if len(self.active_associations) < self.bounds.connections:
            return True
        log.warning("connection refused", step="listen", reason="too many connections", address=client_address[0])
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection, with a bound on those that are not an association yet."""
        if not self._in_handshake.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._in_handshake.release()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Hand the connection to a thread (the base class of pynetdicom's would do it here)."""
        threading.Thread(
            target=self.process_request_thread, args=(request, client_address), daemon=True, name="cstore-connection"
        ).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say that a connection failed, without a traceback of what it sent."""
        log.warning("connection failed", step="listen", address=client_address[0])

    def stop_accepting(self) -> None:
        """Close the listening socket; running associations go on."""
        socketserver.BaseServer.shutdown(self)
        self.server_close()
