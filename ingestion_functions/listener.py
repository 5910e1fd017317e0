"""The DICOM listener: C-ECHO and C-STORE (PS3.4 A and B), feeding the same intake as every other door."""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections import Counter
from typing import Any, cast

from pydicom import Dataset
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.events import Event

from imaging_core import telemetry
from imaging_core.errors import Permanent, Rejected
from imaging_core.settings import Settings
from ingestion_functions import cstore
from ingestion_functions.cstore_rules import VERIFICATION, Callers, Refusal, contexts, tls_context
from ingestion_functions.cstore_transport import BoundedServer, Bounds, ReceivedDataSet
from ingestion_functions.memory import Room
from ingestion_functions.services import IntakeServices

__all__ = ["Listener", "echo"]

_CONGESTED = Refusal(2, 3, 2, "too many associations")  # transient, presentation layer, local limit exceeded
_NOT_AUTHORISED = 0x0124  # PS3.7 C.5.19
_POLL_S = 0.5
log = telemetry.get_logger(__name__)


class Listener:
    """One listening AE.

    Parameters
    ----------
    parts : IntakeServices
        Where instances go.

    Raises
    ------
    Permanent
        With code ``bad-setting``: see `Callers` and `tls_context`, or the port is taken.
    """

    def __init__(self, parts: IntakeServices) -> None:
        settings = parts.settings
        self._parts = parts
        self._settings = settings
        self._callers = Callers(settings, parts.sites)
        self._room = Room(settings.max_bytes_in_work)
        self._stopping = False
        self._in_work = 0
        self._unanswered: set[Association] = set()
        self._changed = threading.Condition()
        self._tally: dict[Association, Counter[str]] = {}
        tls = tls_context(settings)
        _quiet()
        self._ae = self._entity(settings)
        self._server = self._bind(settings, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_S,), name="cstore-accept")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Begin to accept associations."""
        self._thread.start()
        host, port = self.address
        protected = "plain" if self._server.tls is None else "tls"
        log.info("listening", step="listen", host=host, port=port, protection=protected)

    def stop(self) -> None:
        """Accept nothing more, finish the C-STOREs that run within LISTEN_GRACE_S, end every association."""
        self._stopping = True
        self._server.stop_accepting()
        with self._changed:
            finished = self._changed.wait_for(
                lambda: self._in_work == 0 and not self._unanswered, self._settings.listen_grace_s
            )
        for association in self._server.active_associations:
            association.abort()
        self._thread.join(timeout=5)
        log.info("stopped", step="listen", finished=finished)

    def _entity(self, settings: Settings) -> AE:
        entity = AE(settings.listen_ae_title)
        entity.implementation_class_uid = cstore.IMPLEMENTATION_UID
        entity.implementation_version_name = cstore.IMPLEMENTATION_VERSION
        entity.maximum_pdu_size = settings.listen_max_pdu
        entity.acse_timeout = settings.listen_associate_s
        entity.dimse_timeout = settings.listen_idle_s
        entity.network_timeout = settings.listen_idle_s
        # the bound on associations is checked in `_requested`, where those that are not established do not count
        entity.maximum_associations = 10_000
        entity.add_supported_context(VERIFICATION)
        return entity

    def _bind(self, settings: Settings, tls: ssl.SSLContext | None) -> BoundedServer:
        bounds = Bounds(
            instance_bytes=settings.max_instance_bytes,
            pdu_bytes=settings.listen_max_pdu,
            connections=2 * settings.listen_max_associations + 16,
            associate_s=settings.listen_associate_s,
            pdu_s=settings.listen_idle_s,
        )
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ESTABLISHED, self._established),
            (evt.EVT_C_ECHO, self._echo),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_RELEASED, self._ended, ["released"]),
            (evt.EVT_ABORTED, self._ended, ["aborted"]),
            (evt.EVT_CONN_CLOSE, self._ended, ["closed"]),
        ]
        try:
            return BoundedServer(
                self._ae,
                (settings.listen_host, settings.listen_port),
                settings.listen_ae_title,
                self._ae.supported_contexts,
                evt_handlers=handlers,
                bounds=bounds,
                tls=tls,
                answered=self._answered,
            )
        except OSError as error:
            raise Permanent(
                "bad-setting", f"LISTEN_HOST, LISTEN_PORT: {settings.listen_host}:{settings.listen_port}: {error}"
            ) from error

    # associations

    def _requested(self, event: Event) -> None:
        association = event.assoc
        request = cast(Any, association.requestor.primitive)
        calling, called = request.calling_ae_title.strip(), request.called_ae_title.strip()
        refusal = self._callers.refusal(calling, called)
        established = sum(other.is_established for other in self._server.active_associations)
        if refusal is None and (self._stopping or established >= self._settings.listen_max_associations):
            refusal = _CONGESTED
        if refusal is not None:
            log.warning("association refused", step="listen", reason=refusal.why, calling=calling, called=called)
            association.acse.send_reject(refusal.result, refusal.source, refusal.diagnostic)
            association.kill()
            return
        wanted = [str(item.abstract_syntax) for item in request.presentation_context_definition_list]
        association.acceptor.supported_contexts = contexts(wanted)

    def _established(self, event: Event) -> None:
        self._tally[event.assoc] = Counter()
        refused = len(event.assoc.rejected_contexts)
        log.info("associated", step="listen", calling=_calling(event.assoc), contexts_refused=refused)

    def _ended(self, event: Event, how: str) -> None:
        tally = self._tally.pop(event.assoc, None)
        self._answered(event.assoc)  # there is nobody to answer any more
        unfinished = event.assoc.dimse.message
        if unfinished is not None and unfinished.data_set is not None:
            unfinished.data_set.close()
        if tally is not None:
            log.info("association ended", step="listen", calling=_calling(event.assoc), how=how, **tally)

    def _answered(self, association: Association) -> None:
        with self._changed:
            self._unanswered.discard(association)
            self._changed.notify_all()

    # requests

    def _echo(self, event: Event) -> int:
        return cstore.SUCCESS

    def _store(self, event: Event) -> Dataset | int:
        association, request = event.assoc, cast(C_STORE, event.request)
        received = cast(ReceivedDataSet, request.DataSet)
        with self._changed:
            if self._stopping:
                return cstore.OUT_OF_RESOURCES
            self._in_work += 1
            self._unanswered.add(association)
        try:
            calling = _calling(association)
            site = self._callers.site(calling)
            if site is None:
                return _NOT_AUTHORISED
            answer = cstore.store(
                self._parts,
                self._room,
                received,
                sop_class=str(request.AffectedSOPClassUID),
                sop_instance=str(request.AffectedSOPInstanceUID),
                transfer_syntax=str(event.context.transfer_syntax),
                calling=calling,
                site=site,
            )
            tally = self._tally.get(association)
            if tally is not None:
                tally[_outcome(answer.Status)] += 1
            return answer
        finally:
            received.close()
            association.dul._idle_timer.restart()  # the time of taking in is not the peer's silence
            with self._changed:
                self._in_work -= 1
                self._changed.notify_all()


def _outcome(number: int) -> str:
    return "stored" if number == cstore.SUCCESS else "warned" if number >> 12 == 0xB else "failed"


def _calling(association: Association) -> str:
    return str(association.requestor.ae_title).strip()


def _quiet() -> None:
    """Log by events of ours: pynetdicom's own lines may repeat what was sent."""
    _config.LOG_HANDLER_LEVEL = "none"
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)


def echo(settings: Settings) -> float:
    """Ask the listener of `settings` for a C-ECHO, from its own AE title; return the seconds that it took.

    Raises
    ------
    Permanent
        With code ``service-unavailable``: no answer, no association, or another status than success.
    """
    _quiet()
    entity = AE(settings.listen_ae_title)
    entity.add_requested_context(VERIFICATION)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
    entity.connection_timeout = 5
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(  # noqa: S104  # the address that every host is reached by
        settings.listen_host, settings.listen_host
    )
    started = time.monotonic()
    association = entity.associate(
        host, settings.listen_port, ae_title=settings.listen_ae_title, tls_args=_own_tls(settings)
    )
    if not association.is_established:
        raise Rejected("service-unavailable", f"no association with {host}:{settings.listen_port}")
    try:
        answer = association.send_c_echo()
    finally:
        association.release()
    if answer is None or answer.get("Status") != cstore.SUCCESS:
        raise Rejected("service-unavailable", "C-ECHO was not answered with success")
    return time.monotonic() - started


def _own_tls(settings: Settings) -> tuple[ssl.SSLContext, str] | None:
    """The listener's own certificate, shown to itself: this asks whether it serves, not who it is."""
    if not settings.listen_tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.load_cert_chain(settings.listen_tls_cert, settings.listen_tls_key)
    return context, ""
