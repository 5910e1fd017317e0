"""Bundles in Blob Storage, which of them answer, and how a running service takes that over."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ai_container import activation
from ai_container.activation import Activation, Pinned, TaskModels, change, parse_activation
from ai_container.analyser import Analyser
from ai_container.bundle_store import MANIFEST, BundleStore
from ai_container.header_facts import ImageFacts
from ai_container.image_analysis import Timings
from ai_container.model_command import activate_model, model
from ai_container.registry import Registry, packaged_bundles
from ai_container.serving import Parts
from imaging_core.blobs import BlobStore
from imaging_core.database import Pool
from imaging_core.dicom.child import DecodePool
from imaging_core.errors import Permanent, Retryable
from imaging_core.settings import Settings
from tests.ai_container.conftest import CHILDREN, bundle_folder, changed, sample
from tests.ai_container.test_admission import until

WHEN = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def clean(blob_store: BlobStore) -> Iterator[BlobStore]:
    """Blob Storage without any model, before and after."""

    def empty() -> None:
        for blob in list(blob_store.list("models")):
            blob_store.delete("models", blob.name)

    empty()
    yield blob_store
    empty()


@pytest.fixture
def store(clean: BlobStore, tmp_path: Path) -> BundleStore:
    return BundleStore(clean, tmp_path / "cache")


@pytest.fixture
def cached(settings: Settings, tmp_path: Path) -> Settings:
    return settings.model_copy(update={"model_cache_dir": str(tmp_path / "cache"), "model_poll_s": 0.05})


@pytest.fixture
def serving(clean: BlobStore, cached: Settings) -> Iterator[Callable[[], Parts]]:
    """Makes services that are stopped at the end."""
    made: list[Parts] = []

    def make() -> Parts:
        made.append(Parts(cached))
        return made[-1]

    yield make
    for parts in made:
        parts.close()


def put(blobs: BlobStore, task: str, models: TaskModels) -> Activation:
    return change(blobs, task, models, who="ada", at=WHEN, reason="test")


# -- bundles ---------------------------------------------------------------------------------------------------------


def test_a_bundle_comes_back_as_it_was_added_and_from_disk_the_second_time(
    store: BundleStore, clean: BlobStore, tmp_path: Path
) -> None:
    folder = bundle_folder(tmp_path, **CHILDREN)
    assert store.add(folder) == "chest-child:0.1.0"
    assert store.add(folder) == "chest-child:0.1.0"  # again: nothing to do
    assert store.list() == ["chest-child:0.1.0"]
    pin = hashlib.sha256(store.manifest("chest-child:0.1.0")).hexdigest()
    loaded = store.load("chest-child:0.1.0", pin)
    assert loaded.scope.most_age == 6
    for blob in list(clean.list("models")):
        clean.delete("models", blob.name)
    assert store.load("chest-child:0.1.0", pin).sha256 == loaded.sha256
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [pin]


def test_a_version_is_never_exchanged(store: BundleStore, tmp_path: Path) -> None:
    store.add(bundle_folder(tmp_path / "one", **CHILDREN))
    with pytest.raises(Permanent, match="conflicting-content"):
        store.add(bundle_folder(tmp_path / "two", **CHILDREN, research=True))


@pytest.mark.parametrize("name", ["weights.tflite", "model.yaml", "MODEL_CARD.md"])
def test_a_file_with_another_hash_is_refused_and_not_kept(
    store: BundleStore, clean: BlobStore, tmp_path: Path, name: str
) -> None:
    store.add(bundle_folder(tmp_path, **CHILDREN))
    data = bytearray(clean.get("models", f"chest-child/0.1.0/{name}"))
    data[-1] ^= 1
    clean.put("models", f"chest-child/0.1.0/{name}", bytes(data))
    with pytest.raises(Permanent, match=name) as refused:
        store.load("chest-child:0.1.0")
    assert refused.value.code == "model-hash-mismatch"
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_missing_file_is_refused(store: BundleStore, clean: BlobStore, tmp_path: Path) -> None:
    store.add(bundle_folder(tmp_path, **CHILDREN))
    clean.delete("models", "chest-child/0.1.0/gate.npz")
    with pytest.raises(Permanent, match=r"gate\.npz is missing"):
        store.load("chest-child:0.1.0")


def test_files_exchanged_after_the_activation_are_refused(store: BundleStore, clean: BlobStore, tmp_path: Path) -> None:
    """Whoever may write the blobs can exchange a bundle and its manifest; the activation's pin is out of his reach."""
    store.add(bundle_folder(tmp_path / "one", **CHILDREN))
    pin = hashlib.sha256(store.manifest("chest-child:0.1.0")).hexdigest()
    clean.delete("models", f"chest-child/0.1.0/{MANIFEST}")
    store.add(bundle_folder(tmp_path / "two", **CHILDREN, research=True))
    with pytest.raises(Permanent, match="not the one that was activated") as refused:
        store.load("chest-child:0.1.0", pin)
    assert refused.value.code == "model-hash-mismatch"


def test_a_damaged_copy_on_disk_is_fetched_anew(store: BundleStore, tmp_path: Path) -> None:
    store.add(bundle_folder(tmp_path, **CHILDREN))
    pin = hashlib.sha256(store.manifest("chest-child:0.1.0")).hexdigest()
    store.load("chest-child:0.1.0", pin)
    weights = tmp_path / "cache" / pin / "weights.tflite"
    weights.write_bytes(weights.read_bytes()[:-1])
    loaded = store.load("chest-child:0.1.0", pin)
    assert hashlib.sha256(loaded.weights).hexdigest() == loaded.sha256


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"format": 2, "name": "chest-child", "version": "0.1.0", "files": {}}',
        b'{"format": 1, "name": "other", "version": "0.1.0", "files": {}}',
        b'{"format": 1, "name": "chest-child", "version": "0.1.0", "files": {}}',
        b'{"format": 1, "name": "chest-child", "version": "0.1.0", "files": {"model.yaml": {"sha256": "x", "bytes": 1},'
        b' "../../x": {"sha256": "x", "bytes": 1}}}',
        b'{"format": 1, "name": "chest-child", "version": "0.1.0", "files": {"model.yaml": {"sha256": "x",'
        b' "bytes": 99999999999}}}',
    ],
)
def test_a_manifest_that_is_none_is_refused(store: BundleStore, clean: BlobStore, content: bytes) -> None:
    clean.put("models", f"chest-child/0.1.0/{MANIFEST}", content)
    with pytest.raises(Permanent) as refused:
        store.load("chest-child:0.1.0")
    assert refused.value.code == "model-unusable"


@pytest.mark.parametrize("reference", ["", "x", "../x:1", "a:b/c", "a b:1", "drift:"])
def test_a_name_that_is_none_is_not_found(store: BundleStore, reference: str) -> None:
    with pytest.raises(Permanent, match="not-found"):
        store.load(reference)


# -- activation ------------------------------------------------------------------------------------------------------


def test_activation_keeps_who_when_and_what_was_before(clean: BlobStore) -> None:
    put(clean, "chest-opacity", TaskModels(Pinned("chest-opacity:1.0.0")))
    change(clean, "chest-opacity", TaskModels(None), who="grace", at=WHEN, reason="recall")
    found, etag = activation.read(clean)
    assert etag
    assert found.tasks == {"chest-opacity": TaskModels(None)}
    assert [(item.who, item.was, item.active) for item in found.history] == [
        ("ada", "", "chest-opacity:1.0.0"),
        ("grace", "chest-opacity:1.0.0", ""),
    ]
    assert parse_activation(found.content()) == found


def test_two_people_do_not_overwrite_each_other(clean: BlobStore) -> None:
    put(clean, "chest-opacity", TaskModels(Pinned("chest-opacity:1.0.0")))
    _, seen = activation.read(clean)
    put(clean, "other", TaskModels(None))
    with pytest.raises(Retryable, match="somebody else"):
        change(clean, "chest-opacity", TaskModels(None), who="b", at=WHEN, reason="", seen=seen)
    assert not clean.replace("models", activation.ACTIVE, b"{}", etag=seen)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format": 9}', b'{"format": 1, "tasks": {"A B": {}}}', b"[1]"])
def test_an_activation_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(Permanent) as refused:
        parse_activation(content)
    assert refused.value.code == "model-unusable"


def test_a_model_of_another_task_can_t_answer(settings: Settings) -> None:
    decided = Activation({"other": TaskModels(Pinned("chest-opacity:1.0.0"))})
    with pytest.raises(Permanent, match="is for task chest-opacity"):
        Registry(packaged_bundles(settings), decided)


# -- routing ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def both(settings: Settings, decoder: DecodePool, tmp_path: Path) -> Analyser:
    """The adults' model and one for children of 1 to 5 years."""
    bundle_folder(tmp_path, **CHILDREN)
    return Analyser(Registry(packaged_bundles(settings.model_copy(update={"model_dir": str(tmp_path)}))), decoder)


@pytest.mark.requirement("R3")
@pytest.mark.parametrize(
    ("change", "task", "reason"),
    [
        ({}, "chest-opacity", ""),
        ({"PatientBirthDate": "20010305"}, "child-pneumonia", ""),
        ({"PatientBirthDate": "20031201"}, None, "child"),  # an infant of some months: for neither
        ({"PatientBirthDate": "19940305"}, None, "child"),  # ten years old: for neither
        ({"PatientBirthDate": ""}, None, "age-unknown"),
        ({"PatientBirthDate": "20010305", "ViewPosition": "LL"}, None, "not-frontal"),
        ({"Modality": "MG"}, None, "no-model"),
    ],
)
def test_age_decides_between_two_models(
    both: Analyser, chest: bytes, change: dict[str, object], task: str | None, reason: str
) -> None:
    analysis = both.preview_dicom(changed(chest, **change), None, Timings())
    assert [item for _, item in analysis.not_analysed] == ([reason] if reason else [])
    if task:
        assert analysis.bundle is not None
        assert analysis.bundle.task == task
        assert len(analysis.findings) == 1


def test_several_models_look_at_one_image(settings: Settings, tmp_path: Path) -> None:
    bundle_folder(tmp_path, name="chest-second", task="second")
    registry = Registry(packaged_bundles(settings.model_copy(update={"model_dir": str(tmp_path)})))
    facts = ImageFacts(modality="DX", body_part="chest", view="frontal", age_years=50)
    assert [bundle.task for bundle in registry.route(facts).bundles] == ["chest-opacity", "second"]


# -- a running service -----------------------------------------------------------------------------------------------


def test_a_running_service_takes_an_activation_over(
    serving: Callable[[], Parts], store: BundleStore, clean: BlobStore, tmp_path: Path
) -> None:
    parts = serving()
    assert [item.reference for item in parts.analyser().registry.active()] == ["chest-opacity:1.0.0"]
    before = parts.analyser().models["chest-opacity:1.0.0"]
    store.add(bundle_folder(tmp_path, **CHILDREN))
    pin = hashlib.sha256(store.manifest("chest-child:0.1.0")).hexdigest()
    put(clean, "child-pneumonia", TaskModels(Pinned("chest-child:0.1.0", pin)))
    until(lambda: len(parts.analyser().registry.active()) == 2)
    assert parts.analyser().models["chest-opacity:1.0.0"] is before  # what is loaded stays loaded
    put(clean, "chest-opacity", TaskModels(None))
    until(lambda: len(parts.analyser().registry.active()) == 1)


def test_an_activation_that_can_t_be_honoured_changes_nothing_and_is_told(
    serving: Callable[[], Parts], store: BundleStore, clean: BlobStore, tmp_path: Path
) -> None:
    parts = serving()
    parts.analyser()
    store.add(bundle_folder(tmp_path, **CHILDREN))
    put(clean, "child-pneumonia", TaskModels(Pinned("chest-child:0.1.0", "0" * 64)))
    until(lambda: parts.problem() is not None)
    problem = parts.problem()
    assert problem is not None
    assert problem.code == "model-hash-mismatch"
    assert [item.task for item in parts.analyser().registry.active()] == ["chest-opacity"]
    put(clean, "child-pneumonia", TaskModels(None))
    until(lambda: parts.problem() is None)


def test_a_service_that_can_t_honour_an_activation_does_not_become_ready(
    serving: Callable[[], Parts], clean: BlobStore
) -> None:
    """It must not answer with another model than the one that people chose; once it can, it does."""
    put(clean, "chest-opacity", TaskModels(Pinned("chest-opacity:9.9.9")))
    parts = serving()
    with pytest.raises(Permanent, match="not-found"):
        parts.analyser()
    put(clean, "chest-opacity", TaskModels(Pinned("chest-opacity:1.0.0")))
    until(lambda: parts._analyser is not None)
    assert parts.analyser().registry.active()[0].reference == "chest-opacity:1.0.0"


def test_a_model_that_is_asked_for_by_name_is_fetched(
    serving: Callable[[], Parts], store: BundleStore, tmp_path: Path
) -> None:
    parts = serving()
    parts.analyser()
    store.add(bundle_folder(tmp_path, **CHILDREN))
    analyser = parts.analyser("chest-child:0.1.0")
    assert not analyser.registry.is_active(analyser.registry.get("chest-child:0.1.0"))
    with pytest.raises(Permanent, match="not-found"):
        parts.analyser("chest-child:7.7.7")


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(clean: BlobStore, cached: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr("ai_container.model_command.operator_settings", lambda: cached)

    def call(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(model, arguments)
        assert result.exit_code == code, result.output
        return result

    return call


def test_commands(run: Callable[..., Result], clean: BlobStore, pool: Pool, tmp_path: Path) -> None:
    folder = bundle_folder(tmp_path, **CHILDREN)
    assert run("add", str(folder)).output.strip() == "chest-child:0.1.0"
    rows = {row["model"]: row for row in json.loads(run("list", "--json").output)}
    assert rows["chest-opacity:1.0.0"]["role"] == "active (default)"
    assert rows["chest-child:0.1.0"]["role"] == ""
    run("activate", "chest-child:0.1.0", "--reason", "approved by the committee", "--who", "ada")
    rows = {row["model"]: row for row in json.loads(run("list", "--json").output)}
    assert rows["chest-child:0.1.0"]["role"] == "active"
    assert "approved by the committee" in run("show", "chest-child:0.1.0").output
    assert "chest-child" in run("list").output
    with pool.connection() as connection:
        row = connection.execute("SELECT event FROM ledger.audit_outbox ORDER BY id DESC LIMIT 1").fetchone()
    assert row is not None
    assert "ada" in json.dumps(row[0])
    assert "AI model activated" in json.dumps(row[0])
    run("activate", "--off", "--task", "child-pneumonia", "--reason", "recall", "--who", "ada")
    found, _ = activation.read(clean)
    assert found.tasks["child-pneumonia"].active is None
    run("activate", "--reason", "x", code=2)
    run("activate", "chest-child:0.1.0", "--off", "--reason", "x", code=2)


def test_a_shadow_must_be_of_the_same_task(run: Callable[..., Result], cached: Settings, tmp_path: Path) -> None:
    run("add", str(bundle_folder(tmp_path, **CHILDREN)))
    with pytest.raises(Permanent, match="one task"):
        activate_model(cached, "chest-opacity:1.0.0", "", ("chest-child:0.1.0",), "why", "ada")
    with pytest.raises(Permanent, match="its own shadow"):
        activate_model(cached, "chest-opacity:1.0.0", "", ("chest-opacity:1.0.0",), "why", "ada")
    with pytest.raises(Permanent, match="reason"):
        activate_model(cached, "chest-opacity:1.0.0", "", (), " ", "ada")


def test_where_audit_can_t_be_written_nothing_is_activated(cached: Settings, clean: BlobStore) -> None:
    away = cached.model_copy(
        update={"database_url": type(cached.database_url)("postgresql://nobody@127.0.0.1:1/none?connect_timeout=1")}
    )
    with pytest.raises(Retryable):
        activate_model(away, "chest-opacity:1.0.0", "", (), "why", "ada")
    assert activation.read(clean) == (Activation(), "")


def test_evaluate_on_one_s_own_images(run: Callable[..., Result], tmp_path: Path, chest: bytes) -> None:
    (tmp_path / "one.dcm").write_bytes(chest)
    (tmp_path / "two.dcm").write_bytes(sample("RG1_J2KR.dcm"))
    (tmp_path / "child.dcm").write_bytes(changed(chest, PatientAge="004Y"))
    (tmp_path / "broken.dcm").write_bytes(b"nothing")
    labels = tmp_path / "labels.csv"
    labels.write_text("path,label,patient\none.dcm,1,a\ntwo.dcm,0,b\nchild.dcm,1,c\nbroken.dcm,0,d\n")
    said = json.loads(run("evaluate", "chest-opacity:1.0.0", str(labels)).output)
    assert said["images"] == 4
    assert said["analysed"] == 2
    assert said["refused"] == {"child": 1, "pixels-unreadable": 1}
    assert 0 <= said["auc"]["value"] <= 1
    labels.write_text("path,label\n../../etc/passwd,1\n")
    result = CliRunner().invoke(model, ["evaluate", "chest-opacity:1.0.0", str(labels)])
    assert isinstance(result.exception, Permanent)
