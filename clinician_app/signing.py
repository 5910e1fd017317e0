"""Signing, rejecting and amending: the preview, the durable copy, the write, the audit, and what failures leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clinician_app.signoff_draft import Draft
from clinician_app.signoff_journal import SignoffJournal
from clinician_app.wording import rejection_words
from fhir_adapter import verified_sr
from fhir_adapter.audit_event import Act as AuditAct
from fhir_adapter.client import FhirClient, Resource
from fhir_adapter.errors import FhirRetryable, PreconditionFailed
from fhir_adapter.signoff import Signed, Signer, amend, reject, sign
from imaging_core.blobs import BlobMissing, BlobStore
from imaging_core.errors import ImagingError, Permanent, Retryable
from imaging_core.ledger.signed_object import SignedObject
from imaging_core.telemetry import get_logger

__all__ = ["AUDIT_ACTS", "NotKnown", "SigningDesk"]

AUDIT_ACTS: dict[str, AuditAct] = {
    "sign": "report-signed",
    "amend": "report-amended",
    "correct": "report-amended",
    "reject": "report-rejected",
}
_APP = "Imaging app"
_VOID = ".void"

Write = Callable[[Sequence[Resource]], list[Resource]]


class NotKnown(Retryable):
    """FHIR did not answer, and whether the act was done can't be seen now either."""

    def __init__(self) -> None:
        super().__init__("fhir-unavailable", "whether the act was done is not known yet")

    def __reduce__(self) -> tuple[type[NotKnown], tuple[()]]:  # type: ignore[override]  # other arguments
        """Pickle with this class's own arguments."""
        return (type(self), ())


class _Shown(Exception):
    """Carries what would be written out of the act, just before it would be."""

    def __init__(self, copy: Resource) -> None:
        super().__init__()
        self.copy = copy


@dataclass(frozen=True)
class SigningDesk:
    """Where acts on reports are done.

    Parameters
    ----------
    client : FhirClient
        The imaging FHIR service with the app's own identity: reads, and writes for signers whose token may not.
    blobs : BlobStore
        Container ``signoffs`` holds a copy of everything that was signed.
    journal : SignoffJournal
        Drafts, acts and their audit.
    """

    client: FhirClient
    blobs: BlobStore
    journal: SignoffJournal

    def preview(self, report_id: str, draft: Draft, signer: Signer, write: Write | None) -> list[Resource]:
        """Return exactly what the act would write, the report first; nothing is written.

        Raises
        ------
        PreconditionFailed
            The report is another version by now.
        """

        def show(copy: Resource) -> None:
            raise _Shown(copy)

        try:
            self._act(report_id, draft, signer, write, show)
        except _Shown as shown:
            return [entry["resource"] for entry in shown.copy["entry"]]
        raise AssertionError("an act hands its copy over before it writes")

    def carry_out(
        self, form: str, report_id: str, draft: Draft, signer: Signer, write: Write | None, event: dict[str, Any]
    ) -> Signed:
        """Do what the form's preview showed; the form was used up by `SignoffJournal.begin`.

        Raises
        ------
        PreconditionFailed
            Somebody else was faster; nothing is written.
        NotKnown
            It will be found out, and audited, later.
        Retryable, Permanent
            Nothing was written.
        """
        copies: list[tuple[str, Resource]] = []

        def keep(copy: Resource) -> None:
            act = copy["entry"][-1]["resource"]
            name = _copy_name(copy, draft, act)
            self.blobs.put_new(
                "signoffs", name, json.dumps(copy, ensure_ascii=False).encode(), content_type="application/fhir+json"
            )
            copies.append((name, act))
            self.journal.kept(form, name, f"Provenance/{act['id']}", str(act["recorded"]))

        try:
            with self.journal.audited(form, event) as begun:
                signed = self._act(report_id, draft, signer, write, keep)
                begun.done(_leaves(copies[-1][0], signed.report, signed.version_id))
        except ImagingError as error:
            self._not_done(form, event, copies, error)
            raise
        self._verified_document(signed, signer)
        return signed

    def settle(self) -> None:
        """Find out how acts ended whose process did not live to note it, and queue their audit events."""
        for act in self.journal.unsettled():
            try:
                done = bool(act.act_id) and _is_done(self.client, act.act_id, act.recorded)
                if done:
                    self.journal.ended(act.form_hash, "done", act.event, self._left_by(act.copy_name))
                else:
                    self._void(act.copy_name)
                    self.journal.ended(act.form_hash, "failed", _failed(act.event))
            except Retryable as error:
                get_logger(__name__).warning("signoff-not-settled", code=error.code)
                return

    def _act(
        self, report_id: str, draft: Draft, signer: Signer, write: Write | None, keep: Callable[[Resource], None]
    ) -> Signed:
        written_by = "" if write else _APP
        base = (self.client, report_id, draft.version, signer, keep)
        if draft.act == "reject":
            language = self._language(report_id)
            words = rejection_words(draft.rejection, draft.reason, language)
            return reject(*base, words, written_by=written_by, write=write)
        said: dict[str, Any] = {
            "findings": draft.findings,
            "conclusion": draft.conclusion,
            "written_by": written_by,
            "write": write,
        }
        if draft.act == "sign":
            return sign(*base, **said)
        status: Literal["amended", "corrected"] = "corrected" if draft.act == "correct" else "amended"
        return amend(*base, draft.reason, status=status, **said)

    def _language(self, report_id: str) -> str:
        return str((self.client.read("DiagnosticReport", report_id) or {}).get("language") or "en")

    def _not_done(
        self, form: str, event: dict[str, Any], copies: list[tuple[str, Resource]], error: ImagingError
    ) -> None:
        """Note what did not happen; where that can't be seen now, leave it to `settle`."""
        for _, act in copies:
            # a refusal is certain; after anything else the act may have been done although it looked otherwise
            if not isinstance(error, PreconditionFailed | Permanent):
                try:
                    if _is_done(self.client, f"Provenance/{act['id']}", str(act["recorded"])):
                        raise NotKnown from error
                except FhirRetryable as away:
                    raise NotKnown from away
        outcome: Literal["conflict", "failed"] = "conflict" if isinstance(error, PreconditionFailed) else "failed"
        try:
            for name, _ in copies:
                self._void(name)
            self.journal.end_of(form, outcome, _failed(event))
        except Retryable as away:
            get_logger(__name__).warning("signoff-not-settled", code=away.code)  # `settle` finds it

    def _void(self, name: str) -> None:
        """Mark a copy as never signed: copies are only ever added, so a mark stands beside it."""
        if name:
            self.blobs.put_new("signoffs", name + _VOID, b"")

    def _left_by(self, copy_name: str) -> SignedObject | None:
        """Return the SR that an act leaves of which only the copy is known."""
        try:
            report = json.loads(self.blobs.get("signoffs", copy_name))["entry"][0]["resource"]
        except BlobMissing:
            get_logger(__name__).error("signed-copy-missing")
            return None
        stored = self.client.read("DiagnosticReport", str(report["id"])) or {}
        if stored.get("issued") == report.get("issued"):
            version = str(stored["meta"]["versionId"])
        else:
            # somebody has acted on it since: the version that was signed lies between what was seen and what is now
            seen = copy_name.rpartition("/")[2].partition("-")[0]
            version = str(int(seen) + 1) if seen.isdigit() else copy_name
        return _leaves(copy_name, report, version)

    def _verified_document(self, signed: Signed, signer: Signer) -> None:
        """Write the DICOM SR of the signed report; where that fails the sweep makes it of the copy."""
        try:
            verified_sr.store(self.client, self.blobs, signed, signer)
        except ImagingError as error:
            get_logger(__name__).warning("verified-sr-postponed", code=error.code)


def _leaves(copy_name: str, report: Resource, version_id: str) -> SignedObject | None:
    """Return the SR that is to join the study; None where the report has none."""
    blob = verified_sr.blob_name(report, version_id)
    return SignedObject(blob.partition("/")[0], blob, copy_name, version_id) if blob else None


def _copy_name(copy: Resource, draft: Draft, act: Resource) -> str:
    report = copy["entry"][0]["resource"]
    path = next(
        (str(item["value"]) for item in report.get("identifier") or [] if item.get("system") == "urn:imaging:report"),
        f"report/{report['id']}",
    )
    moment = "".join(character for character in str(act["recorded"]) if character.isdigit())
    return f"{path}/{draft.version}-{act['id']}-{moment}.json"


def _is_done(client: FhirClient, act_id: str, recorded: str) -> bool:
    """Return whether FHIR holds this very act: two people's acts on one version of a report share the id."""
    kind, _, name = act_id.partition("/")
    stored = client.read(kind, name)
    return stored is not None and str(stored.get("recorded")) == recorded


def _failed(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event of an act that was tried and not done (outcome 4; BALP's patterns are for successes)."""
    return {**{key: value for key, value in event.items() if key != "meta"}, "outcome": "4"}
