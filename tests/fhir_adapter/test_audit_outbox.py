"""An act and its audit stand or fall together (A2): both are rows of one transaction."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from imaging_core.database import Pool, unit_of_work
from imaging_core.ledger import audit as ledger
from ingestion_functions import audit
from tests.fhir_adapter.headers import fresh_uid

_ACT = "INSERT INTO ledger.study (study_uid, site) VALUES (%s, 'test')"


def rows(pool: Pool, study_uid: str) -> tuple[int, int]:
    """Return (acts, audits) of a study."""
    with unit_of_work(pool) as connection:
        acts = connection.execute("SELECT count(*) FROM ledger.study WHERE study_uid = %s", (study_uid,)).fetchone()
        noted = connection.execute(
            "SELECT count(*) FROM ledger.audit_outbox WHERE event::text LIKE %s", (f"%{study_uid}%",)
        ).fetchone()
    assert acts
    assert noted
    return int(next(iter(_values(acts)))), int(next(iter(_values(noted))))


def _values(row: Any) -> Any:
    return row.values() if isinstance(row, dict) else row


def act(pool: Pool, study_uid: str, *, dies: bool = False) -> None:
    with unit_of_work(pool) as connection:
        connection.execute(_ACT, (study_uid,))
        audit.note(connection, "image-received", client="modality", what=f"urn:oid:{study_uid}", patient=None)
        if dies:
            raise KeyboardInterrupt


@pytest.mark.requirement("A2")
def test_an_act_that_dies_leaves_no_audit(pool: Pool) -> None:
    study_uid = fresh_uid()
    with pytest.raises(KeyboardInterrupt):
        act(pool, study_uid, dies=True)
    assert rows(pool, study_uid) == (0, 0)


@pytest.mark.requirement("A2")
def test_without_its_audit_there_is_no_act(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError("no space")

    monkeypatch.setattr(ledger, "queue", full)
    study_uid = fresh_uid()
    with pytest.raises(OSError, match="no space"):
        act(pool, study_uid)
    assert rows(pool, study_uid) == (0, 0)
