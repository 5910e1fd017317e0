"""``imaging model``: which models are there, which answer, and what one says on a site's own images."""

from __future__ import annotations

import getpass
import hashlib
import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from ai_container import activation
from ai_container.activation import Activation, Pinned, TaskModels
from ai_container.analyser import Analyser
from ai_container.bundle import Bundle
from ai_container.bundle_store import BundleStore
from ai_container.evaluation import evaluate as evaluated
from ai_container.evaluation import read_labels
from ai_container.registry import Registry, packaged_bundles
from fhir_adapter.audit_event import Agent, build
from fhir_adapter.identity import device_id
from imaging_core.blobs import BlobStore
from imaging_core.database import open_pool, unit_of_work
from imaging_core.dicom.child import DecodePool
from imaging_core.errors import Permanent
from imaging_core.ledger import audit
from imaging_core.settings import Settings, operator_settings

__all__ = ["activate_model", "model"]


@click.group()
def model() -> None:
    """The AI models: list, show, activate, evaluate."""


class _Shelf:
    """The models of the image and of Blob Storage, as a command sees them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.blobs = BlobStore.from_settings(settings)
        self.store = BundleStore.from_settings(settings, self.blobs)
        self.packaged = {bundle.reference: bundle for bundle in packaged_bundles(settings)}
        self.activation, self.etag = activation.read(self.blobs)

    def bundle(self, reference: str) -> Bundle:
        return self.packaged.get(reference) or self.store.load(reference)

    def pinned(self, reference: str) -> Pinned:
        """Return a model as an activation holds it: one from Blob Storage by its manifest's hash, and only if it loads.

        Raises
        ------
        Permanent
            ``not-found``, ``model-hash-mismatch``, ``model-unusable``.
        """
        if reference in self.packaged:
            return Pinned(reference)
        digest = hashlib.sha256(self.store.manifest(reference)).hexdigest()
        self.store.load(reference, digest)
        return Pinned(reference, digest)

    def role(self, bundle: Bundle) -> str:
        decided = self.activation.tasks.get(bundle.task)
        if decided is None:
            return "active (default)" if Registry(self.packaged.values()).is_active(bundle) else ""
        if decided.active is not None and decided.active.reference == bundle.reference:
            return "active"
        return "shadow" if bundle.reference in [item.reference for item in decided.shadow] else ""


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
def list_(as_json: bool) -> None:
    """List the models of the image and of Blob Storage."""
    shelf = _Shelf(operator_settings())
    rows = []
    for reference in sorted({*shelf.packaged, *shelf.store.list()}):
        place = "image" if reference in shelf.packaged else "blob"
        try:
            bundle = shelf.bundle(reference)
        except Permanent as error:
            rows.append({"model": reference, "place": place, "task": "", "role": error.code, "for": ""})
            continue
        kind = "research" if bundle.research else "clinical"
        rows.append({"model": reference, "place": place, "task": bundle.task, "role": shelf.role(bundle), "for": kind})
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    table = Table("model", "from", "task", "role", "for")
    for row in rows:
        table.add_row(row["model"], row["place"], row["task"], row["role"], row["for"])
    Console().print(table)


@model.command()
@click.argument("reference")
def show(reference: str) -> None:
    """Show the card of a model (NAME:VERSION) and the history of its task."""
    shelf = _Shelf(operator_settings())
    bundle = shelf.bundle(reference)
    card = bundle.folder / "MODEL_CARD.md"
    click.echo(card.read_text("utf-8") if card.is_file() else json.dumps(dict(bundle.description), indent=1))
    click.echo(f"{bundle.reference}, task {bundle.task}, sha256 {bundle.sha256}")
    for item in shelf.activation.history:
        if item.task == bundle.task:
            shadow = f", shadow {', '.join(item.shadow)}" if item.shadow else ""
            click.echo(
                f"{item.at} {item.who}: {item.was or 'default'} -> {item.active or 'off'}{shadow}. {item.reason}"
            )


@model.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def add(folder: Path) -> None:
    """Put the bundle in FOLDER into Blob Storage; it answers for nothing until it is activated."""
    shelf = _Shelf(operator_settings())
    click.echo(shelf.store.add(folder))


@model.command()
@click.argument("reference", required=False)
@click.option("--task", default="", help="The task; default: the model's.")
@click.option("--off", is_flag=True, help="No model answers for the task.")
@click.option("--shadow", multiple=True, metavar="NAME:VERSION", help="Runs beside and is never published; repeatable.")
@click.option("--reason", required=True, help="Why; recorded.")
@click.option("--who", default="", help="Who decides; default: the login name.")
def activate(reference: str | None, task: str, off: bool, shadow: tuple[str, ...], reason: str, who: str) -> None:
    """Let a model (NAME:VERSION) answer for its task; running services take it over by themselves."""
    if bool(reference) == off:
        raise click.UsageError("name a model, or --off with --task")
    changed = activate_model(operator_settings(), reference, task, shadow, reason, who or getpass.getuser())
    for name, models in sorted(changed.tasks.items()):
        beside = f", shadow {', '.join(item.reference for item in models.shadow)}" if models.shadow else ""
        click.echo(f"{name}: {models.active.reference if models.active else 'off'}{beside}")


def activate_model(
    settings: Settings, reference: str | None, task: str, shadow: tuple[str, ...], reason: str, who: str
) -> Activation:
    """Activate a model, the audit first: where it can't be written the act is refused.

    Parameters
    ----------
    reference : str or None
        ``name:version``; None: the task is switched off.

    Raises
    ------
    Permanent
        ``bad-field``, ``not-found``, ``model-hash-mismatch``, ``model-unusable``.
    Retryable
        ``precondition-failed``: somebody else changed it meanwhile; ``ledger-unavailable``; ``storage-unavailable``.
    """
    settings.require("database_url")
    if not reason.strip():
        raise Permanent("bad-field", "reason: say why")
    shelf = _Shelf(settings)
    chosen = [shelf.bundle(item) for item in ((reference,) if reference else ()) + shadow]
    tasks = {bundle.task for bundle in chosen} | ({task} if task else set())
    if len(tasks) != 1:
        raise Permanent("bad-field", f"one task, not {', '.join(sorted(tasks)) or 'none'}")
    if reference and reference in shadow:
        raise Permanent("bad-field", "a model does not run in its own shadow")
    models = TaskModels(
        shelf.pinned(reference) if reference else None, tuple(shelf.pinned(item) for item in dict.fromkeys(shadow))
    )
    name = tasks.pop()
    what = chosen[0] if chosen else None
    event = build(
        "model-activated",
        client=Agent("imaging model", address=socket.gethostname()),
        server=Agent("ai_container", address=socket.gethostname()),
        observer="ai_container",
        user=Agent(who, display=who),
        patient=None,
        what=f"Device/{device_id(what.name, what.version)}" if what else f"Device/{device_id(name, 'off')}",
    )
    with open_pool(settings, size=1) as pool, unit_of_work(pool) as connection:
        audit.queue(connection, event)
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return activation.change(shelf.blobs, name, models, who=who, at=at, reason=reason.strip(), seen=shelf.etag)


@model.command()
@click.argument("reference")
@click.argument("labels", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--finding", default="", help="Key of the finding that the labels are of; default: the first.")
@click.option("--assume-adult", is_flag=True, help="Take images whose age can't be had for adults'.")
def evaluate(reference: str, labels: Path, finding: str, assume_adult: bool) -> None:
    """Measure a model on one's own images: LABELS is a CSV file with path, label (0 or 1) and perhaps patient, age."""
    settings = operator_settings()
    packaged = {bundle.reference: bundle for bundle in packaged_bundles(settings)}
    bundle = packaged.get(reference) or _Shelf(settings).bundle(reference)
    with DecodePool.from_settings(settings) as pool:
        analyser = Analyser(Registry([bundle]), pool, assume_adult or settings.assume_adult)
        click.echo(json.dumps(evaluated(analyser, bundle, read_labels(labels), finding), indent=1))
