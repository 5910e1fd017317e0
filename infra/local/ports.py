"""Whether the ports that parts listen on are free."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

import psutil

from imaging_core.errors import Permanent

__all__ = ["require_free"]


def require_free(ports: Mapping[str, int]) -> None:
    """Check that nothing listens on the ports.

    Parameters
    ----------
    ports : Mapping[str, int]
        Setting to port.

    Raises
    ------
    Permanent
        With code ``bad-setting``: one sentence per port that is taken, naming the setting to change.
    """
    taken = [
        f"port {port} is taken{_holder(port)}: stop that program or set {setting} to another port"
        for setting, port in ports.items()
        if not _is_free(port)
    ]
    doubled = sorted({port for port in ports.values() if list(ports.values()).count(port) > 1})
    for port in doubled:
        names = " and ".join(setting for setting, value in ports.items() if value == port)
        taken.append(f"port {port} is given twice: {names}")
    if taken:
        raise Permanent("bad-setting", "; ".join(taken))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    # other people's processes can't be seen without rights: the message does without
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
                and connection.pid
            ):
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    return ""
