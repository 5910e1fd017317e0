"""The DICOM listener over the real stores: what is stored, what is answered, who is let in."""

from __future__ import annotations

import io
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import CTImageStorage, DigitalXRayImageStorageForPresentation, MRImageStorage, generate_uid
from pynetdicom import AE

from imaging_core.database import unit_of_work
from imaging_core.errors import Permanent
from imaging_core.settings import Settings, load_settings
from imaging_core.sites import Sites
from ingestion_functions import cstore, listener
from ingestion_functions.cstore_rules import STORAGE_CLASSES, TRANSFER_SYNTAXES, contexts
from ingestion_functions.intake import TakenIn
from ingestion_functions.services import IntakeServices, Services
from tests.dicom_samples import instance, part10
from tests.ingestion_functions.cstore_scu import Scu, data_set_of, dcmtk, renamed

EVERYWHERE = "0.0.0.0"  # noqa: S104  # what the settings must not allow by accident
Start = Callable[..., Scu]


@pytest.fixture
def start(parts: Services) -> Iterator[Start]:
    """Start listeners with changed settings on free ports; they stop with the test."""
    running: list[listener.Listener] = []

    def with_settings(**changes: Any) -> Scu:
        settings = changed(parts.settings, listen_port=0, **changes)
        made = listener.Listener(
            IntakeServices(
                settings, Sites.from_settings(settings), parts.blobs, parts.queues, parts.pool, parts.decoder
            )
        )
        made.start()
        running.append(made)
        host, port = made.address
        return Scu(host, port)

    yield with_settings
    for made in running:
        made.stop()


def changed(settings: Settings, **changes: Any) -> Settings:
    return load_settings(**{**{name: getattr(settings, name) for name in settings.model_fields_set}, **changes})


def delivery(parts: Services, sop_uid: str) -> list[tuple[Any, ...]]:
    with unit_of_work(parts.pool) as connection:
        return connection.execute(
            "SELECT source, client, site, outcome, reason FROM ledger.intake WHERE sop_uid = %s ORDER BY received_at",
            (sop_uid,),
        ).fetchall()


def stored(parts: Services, file: bytes) -> bytes:
    head = dcmread(io.BytesIO(file), stop_before_pixels=True)
    name = f"{head.StudyInstanceUID}/{head.SeriesInstanceUID}/{head.SOPInstanceUID}.dcm"
    return parts.blobs.get("images", name)


def sample(name: str) -> bytes:
    found = get_testdata_file(name)
    assert isinstance(found, str)
    return Path(found).read_bytes()


# what is stored


@pytest.mark.parametrize(
    "name",
    [
        "MR_small.dcm",
        "MR_small_implicit.dcm",
        "MR_small_bigendian.dcm",
        "MR_small_RLE.dcm",
        "JPEG2000.dcm",
        "JPEG-LL.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "emri_small_jpeg_ls_lossless.dcm",
        "image_dfl.dcm",
    ],
)
@pytest.mark.requirement("D37", "D38")
def test_the_data_set_is_stored_as_it_came(start: Start, parts: Services, name: str) -> None:
    file = sample(name) if name == "image_dfl.dcm" else renamed(sample(name))
    (answer,) = start().send(file)
    assert answer.Status in (0x0000, 0xB007), answer
    kept = stored(parts, file)
    assert data_set_of(kept) == data_set_of(file)
    meta = dcmread(io.BytesIO(kept), stop_before_pixels=True).file_meta
    sent = dcmread(io.BytesIO(file), stop_before_pixels=True)
    assert meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert (meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID) == (sent.SOPInstanceUID, sent.SOPClassUID)
    assert meta.SourceApplicationEntityTitle == "MODALITY"


def test_a_large_instance_arrives_whole(start: Start, parts: Services) -> None:
    """Beyond what is kept in memory while it arrives."""
    file = part10(instance(Rows=2048, Columns=2048, PixelData=bytes(range(256)) * 32768))
    (answer,) = start().send(file)
    assert answer.Status == 0x0000
    assert data_set_of(stored(parts, file)) == data_set_of(file)


def test_every_delivery_has_its_row(start: Start, parts: Services) -> None:
    sent = instance()
    scu = start()
    assert [answer.Status for answer in scu.send(part10(sent), part10(sent))] == [0, 0]
    assert delivery(parts, sent.SOPInstanceUID) == [
        ("cstore", "MODALITY", "Test hospital", "accepted", None),
        ("cstore", "MODALITY", "Test hospital", "duplicate", None),
    ]


# what is answered (PS3.4 Table B.2-1)


@pytest.mark.requirement("D15")
def test_other_content_under_a_known_uid(start: Start, parts: Services) -> None:
    first = instance()
    other = instance(SOPInstanceUID=first.SOPInstanceUID, PixelData=b"\1" * 32)
    answers = start().send(part10(first), part10(other))
    assert [answer.Status for answer in answers] == [0x0000, 0x0110]
    assert answers[1].ErrorComment.startswith("conflicting-content")
    assert [row[3:] for row in delivery(parts, first.SOPInstanceUID)] == [
        ("accepted", None),
        ("quarantined", "conflicting-content"),
    ]


@pytest.mark.requirement("D12")
def test_the_request_and_the_data_set_contradict_each_other(start: Start, parts: Services) -> None:
    file = part10(instance())
    with start().association(file) as association:
        assert Scu.store(association, file, sop_uid=generate_uid()).Status == 0xC000
        assert Scu.store(association, file, sop_class=MRImageStorage).Status == 0xA900
        assert Scu.store(association, file).Status == 0x0000


@pytest.mark.parametrize(
    ("changes", "number", "code"),
    [
        ({"StudyInstanceUID": None}, 0xC000, "missing-uid"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, 0xC000, "bad-rescale"),
        ({"PixelData": b""}, 0xC000, "truncated"),
        ({"Rows": 65535, "Columns": 65535}, 0xA700, "too-many-pixels"),
    ],
)
@pytest.mark.requirement("D29", "D45")
def test_refusals_tell_the_reason(
    start: Start, parts: Services, changes: dict[str, Any], number: int, code: str
) -> None:
    (answer,) = start().send(part10(instance(**changes)))
    assert (answer.Status, answer.ErrorComment.split(":")[0]) == (number, code)


@pytest.mark.requirement("D45")
def test_an_instance_beyond_the_limit_is_refused_and_the_next_one_is_taken(start: Start, parts: Services) -> None:
    big = part10(instance(Rows=512, Columns=512, PixelData=bytes(512 * 512 * 2)))
    small = part10(instance())
    scu = start(max_instance_bytes=100_000)
    answers = scu.send(big, small)
    assert [answer.Status for answer in answers] == [0xA700, 0x0000]
    assert "MAX_INSTANCE_BYTES" in answers[0].ErrorComment


@pytest.mark.parametrize(
    ("warnings", "number"), [((), 0x0000), (("B000",), 0xB000), (("B007",), 0xB007), (("B007", "B000"), 0xB000)]
)
@pytest.mark.requirement("D7")
def test_warnings_become_the_status(warnings: tuple[str, ...], number: int) -> None:
    from uuid import uuid4

    from imaging_core.ledger.intake import Delivery

    taken = TakenIn(Delivery(uuid4(), "cstore", "M", "site", "accepted", warnings=warnings))
    assert cstore.status(taken).Status == number


def test_what_a_private_sop_class_holds_is_taken(start: Start, parts: Services) -> None:
    private = part10(instance(SOPClassUID="1.3.12.2.1107.5.9.1"))
    assert start().send(private)[0].Status == 0x0000


def test_what_is_no_storage_class_gets_no_context(start: Start, parts: Services) -> None:
    scu = start()
    entity = AE("MODALITY")
    entity.add_requested_context("1.2.840.10008.5.1.4.1.2.2.1")  # Study Root FIND
    entity.add_requested_context("1.2.840.10008.1.3.10")  # DICOMDIR
    entity.add_requested_context(CTImageStorage)
    association = entity.associate(scu.host, scu.port, ae_title="IMAGING")
    assert [str(item.abstract_syntax) for item in association.accepted_contexts] == [CTImageStorage]
    association.release()


def test_every_storage_class_and_transfer_syntax_is_negotiated() -> None:
    assert len(STORAGE_CLASSES) >= 200
    assert len(TRANSFER_SYNTAXES) >= 45
    found = contexts(STORAGE_CLASSES)
    assert {str(item.abstract_syntax) for item in found} == STORAGE_CLASSES
    assert all(len(item.transfer_syntax) == len(TRANSFER_SYNTAXES) for item in found)


# who is let in


def refusal(scu: Scu) -> tuple[int, int, int] | None:
    """Return result, source and reason of the A-ASSOCIATE-RJ; None: it was accepted."""
    with scu.association() as association:
        if association.is_established:
            return None
        answer = association.acceptor.primitive
        return (answer.result, answer.result_source, answer.diagnostic)


def test_titles_decide(start: Start, parts: Services) -> None:
    scu = start(listen_allowed_ae="MODALITY, CT1")
    assert refusal(scu) is None
    assert refusal(Scu(scu.host, scu.port, calling="CT1")) is None
    assert refusal(Scu(scu.host, scu.port, calling="STRANGER")) == (1, 1, 3)
    assert refusal(Scu(scu.host, scu.port, called="PACS")) == (1, 1, 7)


def test_sites_decide(start: Start, parts: Services, tmp_path: Path) -> None:
    sites = tmp_path / "sites.toml"
    sites.write_text(
        '[[site]]\nname = "North"\nassigner_system = "urn:oid:1.2.3"\nae_titles = ["CT1"]\n'
        '[[site]]\nname = "South"\nassigner_system = "urn:oid:1.2.4"\nae_titles = ["CT2", "CT3"]\n'
    )
    scu = start(sites=str(sites))
    sent = instance()
    for calling, site in (("CT1", "North"), ("CT3", "South")):
        assert Scu(scu.host, scu.port, calling=calling).send(part10(sent))[0].Status == 0
        assert delivery(parts, sent.SOPInstanceUID)[-1][1:3] == (calling, site)
    assert refusal(scu) == (1, 1, 3)


def test_the_listener_may_ask_itself_and_nothing_more(start: Start, parts: Services) -> None:
    scu = start(listen_allowed_ae="MODALITY")
    own = Scu(scu.host, scu.port, calling="IMAGING")
    assert listener.echo(changed(parts.settings, listen_port=scu.port)) > 0
    assert own.send(part10(instance()))[0].Status == 0x0124


def test_an_association_too_many(start: Start, parts: Services) -> None:
    scu = start(listen_max_associations=2)
    with scu.association() as first, scu.association() as second:
        assert first.is_established
        assert second.is_established
        assert refusal(scu) == (2, 3, 2)
    file = part10(instance())
    assert scu.send(file)[0].Status == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"listen_host": EVERYWHERE, "listen_allowed_ae": "A"}, "LISTEN_ALLOW_PLAIN"),
        ({"listen_host": EVERYWHERE, "listen_allow_plain": True}, "LISTEN_ALLOWED_AE"),
        ({"listen_tls_key": "key.pem"}, "LISTEN_TLS_CERT"),
        ({"listen_tls_cert": "/nowhere.pem", "listen_tls_key": "/nowhere.pem"}, "LISTEN_TLS_CERT"),
        ({"listen_tls_cert": "/nowhere.pem"}, "LISTEN_TLS_KEY"),
    ],
)
def test_an_open_door_is_not_opened_by_accident(parts: Services, changes: dict[str, Any], named: str) -> None:
    settings = changed(parts.settings, listen_port=0, **changes)
    with pytest.raises(Permanent, match=named):
        listener.Listener(
            IntakeServices(
                settings, Sites.from_settings(settings), parts.blobs, parts.queues, parts.pool, parts.decoder
            )
        )


# TLS (PS3.15 B.9)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server's and a client's certificate, and a stranger's."""
    folder = tmp_path_factory.mktemp("pki")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for authority in ("ca", "other-ca"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={authority}",
                "-keyout", f"{authority}.key", "-out", f"{authority}.pem")  # fmt: skip
    for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other-ca")):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{authority}.pem", "-CAkey", f"{authority}.key",
                "-CAcreateserial", "-days", "2", "-out", f"{name}.pem")  # fmt: skip
    return folder


@pytest.fixture
def tls(start: Start, pki: Path) -> Scu:
    return start(
        listen_tls_cert=str(pki / "server.pem"), listen_tls_key=str(pki / "server.key"),
        listen_tls_ca=str(pki / "ca.pem"),
    )  # fmt: skip


def test_dcmtk_sends_over_tls(tls: Scu, parts: Services, pki: Path, tmp_path: Path) -> None:
    sent = instance()
    (tmp_path / "one.dcm").write_bytes(part10(sent))
    secure = ("+tls", pki / "client.key", pki / "client.pem", "+cf", pki / "ca.pem")
    dcmtk("echoscu", *secure, "-aet", "CT1", "-aec", "IMAGING", tls.host, str(tls.port))
    dcmtk("storescu", *secure, "-aet", "CT1", "-aec", "IMAGING", tls.host, str(tls.port), tmp_path / "one.dcm")
    assert [row[1:4] for row in delivery(parts, sent.SOPInstanceUID)] == [("CT1", "Test hospital", "accepted")]


def test_without_a_certificate_of_the_authority_nobody_is_served(tls: Scu, pki: Path) -> None:
    target = ("-aec", "IMAGING", tls.host, str(tls.port))
    stranger = ("+tls", pki / "stranger.key", pki / "stranger.pem", "+cf", pki / "ca.pem")
    assert dcmtk("echoscu", *stranger, *target, check=False).returncode != 0
    assert dcmtk("echoscu", "+tla", "+cf", pki / "ca.pem", *target, check=False).returncode != 0
    assert dcmtk("echoscu", "-ta", "3", "-to", "3", *target, check=False).returncode != 0
    known = ("+tls", pki / "client.key", pki / "client.pem", "+cf", pki / "ca.pem")
    dcmtk("echoscu", *known, *target)


def test_tls_1_1_is_not_spoken(tls: Scu, pki: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(pki / "ca.pem")
    context.load_cert_chain(pki / "client.pem", pki / "client.key")
    context.check_hostname = False
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    import socket

    with socket.create_connection((tls.host, tls.port), 10) as plain, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(plain)


def test_a_caller_that_does_not_shake_hands_holds_nobody_up(tls: Scu, pki: Path, parts: Services) -> None:
    import socket

    silent = [socket.create_connection((tls.host, tls.port), 10) for _ in range(5)]
    known = ("+tls", pki / "client.key", pki / "client.pem", "+cf", pki / "ca.pem")
    dcmtk("echoscu", *known, "-aec", "IMAGING", tls.host, str(tls.port))
    for connection in silent:
        connection.close()


# DCMTK, and many at once


def test_dcmtk_sends_a_folder(start: Start, parts: Services, tmp_path: Path) -> None:
    scu = start()
    sent = [
        instance(SOPClassUID=uid) for uid in (CTImageStorage, MRImageStorage, DigitalXRayImageStorageForPresentation)
    ]
    for number, dataset in enumerate(sent):
        (tmp_path / f"{number}.dcm").write_bytes(part10(dataset))
    dcmtk("echoscu", "-aec", "IMAGING", scu.host, str(scu.port))
    done = dcmtk("storescu", "-v", "+sd", "-aec", "IMAGING", scu.host, str(scu.port), tmp_path)
    assert (done.stdout + done.stderr).count("Received Store Response (Success)") == 3
    for dataset in sent:
        assert [row[3] for row in delivery(parts, dataset.SOPInstanceUID)] == ["accepted"]


def test_dcmtk_sends_compressed_as_it_is(start: Start, parts: Services, tmp_path: Path) -> None:
    scu = start()
    file = renamed(sample("JPEG2000.dcm"))
    (tmp_path / "one.dcm").write_bytes(file)
    dcmtk("storescu", "-xw", "-aec", "IMAGING", scu.host, str(scu.port), tmp_path / "one.dcm")
    kept = dcmread(io.BytesIO(stored(parts, file)))
    assert kept.PixelData == dcmread(io.BytesIO(file)).PixelData


@pytest.mark.requirement("D22")
def test_eight_senders_at_once(start: Start, parts: Services, fresh_uid: str) -> None:
    scu = start()
    files = [
        [part10(instance(StudyInstanceUID=fresh_uid, PatientID="E8", PatientBirthDate="19600101")) for _ in range(12)]
        for _ in range(8)
    ]

    def send(number: int) -> list[int]:
        return [answer.Status for answer in Scu(scu.host, scu.port, calling=f"CT{number}").send(*files[number])]

    with ThreadPoolExecutor(8) as senders:
        answers = [answer for sender in senders.map(send, range(8)) for answer in sender]
    assert answers == [0] * 96
    with unit_of_work(parts.pool) as connection:
        row = connection.execute(
            "SELECT count(*), count(DISTINCT i.sop_uid) FROM ledger.instance i WHERE study_uid = %s", (fresh_uid,)
        ).fetchone()
    assert row == (96, 96)
