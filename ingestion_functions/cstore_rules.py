"""Who may associate, for what, and how the connection is protected."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom._uid_dict import UID_dictionary
from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import register_uid, uid_to_service_class

from imaging_core.dicom.header import valid_uid
from imaging_core.errors import Permanent
from imaging_core.settings import Settings
from imaging_core.sites import Site, Sites

__all__ = ["STORAGE_CLASSES", "TRANSFER_SYNTAXES", "VERIFICATION", "Callers", "Refusal", "contexts", "tls_context"]

VERIFICATION = "1.2.840.10008.1.1"
"""SOP class of C-ECHO (PS3.4 A.4)."""

_STANDARD_ROOT = "1.2.840.10008."
_DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR travels on media only (PS3.10 8.6)
# Pixels that are elsewhere (JPIP), streams (SMPTE ST 2110), other encodings than PS3.5: nothing of it comes by C-STORE.
_NOT_BY_CSTORE = ("JPIP", "SMPTE", "RFC 2557", "XML Encoding", "Papyrus")
_MOST_PRIVATE = 500

STORAGE_CLASSES = frozenset(
    uid
    for uid, (name, kind, *_) in UID_dictionary.items()
    if kind == "SOP Class" and "Storage" in name and "Commitment" not in name and uid != _DIRECTORY
)
"""Every storage SOP class of PS3.4 B.5 and the retired ones, as pydicom knows them."""

TRANSFER_SYNTAXES = tuple(
    uid
    for uid, (name, kind, *_) in UID_dictionary.items()
    if kind == "Transfer Syntax" and not name.startswith(_NOT_BY_CSTORE)
)
"""What is taken, uncompressed and compressed: a data set is stored as it comes, so none is preferred."""

_private: set[str] = set()


def _serve_as_storage(uid: str) -> None:
    """Let pynetdicom serve a storage class that its own table lacks: retired ones and vendors' own."""
    if uid_to_service_class(uid) is not StorageServiceClass:
        register_uid(uid, f"Storage_{uid.replace('.', '_')}", StorageServiceClass)


for _uid in STORAGE_CLASSES:
    _serve_as_storage(_uid)


def contexts(requested: Iterable[str]) -> list[PresentationContext]:
    """Return what is supported of the abstract syntaxes that a caller asks for.

    Storage SOP classes, Verification, and private SOP classes (vendors' own, as for STOW-RS), each with every transfer
    syntax that intake takes.
    """
    found = []
    for uid in dict.fromkeys(requested):
        if uid == VERIFICATION:
            found.append(build_context(uid))
        elif uid in STORAGE_CLASSES or _private_class(uid):
            found.append(build_context(uid, list(TRANSFER_SYNTAXES)))
    return found


def _private_class(uid: str) -> bool:
    if uid.startswith(_STANDARD_ROOT) or not valid_uid(uid) or not UID(uid).is_valid:
        return False
    if uid not in _private:
        if len(_private) >= _MOST_PRIVATE:
            return False
        _private.add(uid)
        _serve_as_storage(uid)
    return True


@dataclass(frozen=True)
class Refusal:
    """An A-ASSOCIATE-RJ: result, source, reason (PS3.8 9.3.4), and what the log says."""

    result: int
    source: int
    diagnostic: int
    why: str


_CALLING_UNKNOWN = Refusal(1, 1, 3, "calling AE title not recognised")
_CALLED_UNKNOWN = Refusal(1, 1, 7, "called AE title not recognised")


class Callers:
    """The calling AE titles that may send, and the sites that they send for.

    Parameters
    ----------
    settings : Settings
        LISTEN_ALLOWED_AE, LISTEN_AE_TITLE, LISTEN_HOST and SITES are read.

    Raises
    ------
    Permanent
        With code ``bad-setting`` where everybody on the network would be let in.
    """

    def __init__(self, settings: Settings, sites: Sites) -> None:
        self._own = settings.listen_ae_title.strip()
        self._allowed = frozenset(settings.listen_allowed_ae)
        self._sites = sites
        if not settings.sites and not self._allowed and not _loopback(settings.listen_host):
            raise Permanent(
                "bad-setting", "LISTEN_ALLOWED_AE: name the calling AE titles that may send (or list them in SITES)"
            )

    def refusal(self, calling: str, called: str) -> Refusal | None:
        """Return why an association is refused; None: it is not."""
        if called != self._own:
            return _CALLED_UNKNOWN
        if calling != self._own and self.site(calling) is None:
            return _CALLING_UNKNOWN
        return None

    def site(self, calling: str) -> Site | None:
        """Return the site that an AE title sends for; None where it may not send.

        The listener's own title may only ask for C-ECHO: ``imaging listen --check`` does.
        """
        if self._allowed and calling not in self._allowed:
            return None
        if calling == self._own and calling not in self._allowed:
            return None
        return self._sites.of_ae_title(calling)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS of the listener: 1.2 at least, by the BCP 195 profile of PS3.15 B.9; None: plain TCP.

    Raises
    ------
    Permanent
        With code ``bad-setting``: files that can't be used, or an address that is not loopback without TLS and without
        LISTEN_ALLOW_PLAIN.
    """
    if not settings.listen_tls_cert:
        if settings.listen_tls_ca or settings.listen_tls_key:
            raise Permanent("bad-setting", "LISTEN_TLS_CERT is not set, LISTEN_TLS_KEY or LISTEN_TLS_CA is")
        if not _loopback(settings.listen_host) and not settings.listen_allow_plain:
            raise Permanent(
                "bad-setting",
                f"LISTEN_HOST = {settings.listen_host} without LISTEN_TLS_CERT: images would cross the network in the "
                "clear. Set a certificate, or LISTEN_ALLOW_PLAIN=true where the network itself is protected",
            )
        return None
    settings.require("listen_tls_key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM")
    try:
        context.load_cert_chain(settings.listen_tls_cert, settings.listen_tls_key)
        if settings.listen_tls_ca:
            context.load_verify_locations(settings.listen_tls_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise Permanent("bad-setting", f"LISTEN_TLS_CERT, LISTEN_TLS_KEY, LISTEN_TLS_CA: {error}") from error
    return context
