"""``stack.json``: what runs, for ``imaging status``, ``imaging down`` and the next start."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from infra.local.processes import ProcessId

__all__ = ["PartState", "StackState", "read_state", "write_state"]


@dataclass
class PartState:
    """One part as the supervisor sees it."""

    url: str
    log: str
    ports: dict[str, int]
    version: str
    state: str = "waiting"  # waiting, starting, ready, restarting, failed, stopped
    process: ProcessId | None = None
    restarts: int = 0
    detail: str = ""


@dataclass
class StackState:
    """The whole run."""

    supervisor: ProcessId | None = None
    state: str = "starting"  # starting, ready, stopping, stopped, failed
    detail: str = ""
    ca_file: str = ""
    parts: dict[str, PartState] = field(default_factory=dict)

    def processes(self) -> list[ProcessId]:
        """Return the parts' processes that were written down."""
        return [part.process for part in self.parts.values() if part.process is not None]


def write_state(path: Path, state: StackState) -> None:
    """Write the file whole or not at all."""
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_text(json.dumps(asdict(state), indent=1), "utf-8")
    draft.replace(path)


def read_state(path: Path) -> StackState | None:
    """Read the file; None where there is none or it is not readable."""
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    parts = {name: PartState(**{**raw, "process": _process(raw)}) for name, raw in document.pop("parts").items()}
    return StackState(**{**document, "supervisor": _process(document, "supervisor"), "parts": parts})


def _process(raw: dict[str, Any], key: str = "process") -> ProcessId | None:
    return ProcessId(**raw[key]) if raw.get(key) else None
