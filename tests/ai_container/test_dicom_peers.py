"""What Orthanc, a DICOM server of others, makes of the objects that an analysis leaves (R8)."""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread

from ai_container.dicom_results import capture, structured_report
from tests import dicom_samples
from tests.ai_container.test_dicom_results import analysed, source
from tests.fhir_adapter.analyses import result
from tests.fhir_adapter.headers import instance

_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Orthanc with DICOMweb, without its GDCM plugin, on free ports and in a folder of its own."""
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as http, socket.socket() as dicom:
        http.bind(("127.0.0.1", 0))
        dicom.bind(("127.0.0.1", 0))
        ports = http.getsockname()[1], dicom.getsockname()[1]
    configuration = {
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(_PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(configuration))
    program = shutil.which("Orthanc", path="/usr/sbin:/usr/bin:/usr/local/bin")
    assert program, "the Debian package orthanc is not installed"
    base = f"http://127.0.0.1:{ports[0]}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, str(path)], stdout=log, stderr=log)
        try:
            _wait_until_up(base, process)
            yield base
        finally:
            process.terminate()
            process.wait(20)


def _wait_until_up(base: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, "Orthanc ended"
        try:
            if httpx.get(f"{base}/system").is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise AssertionError("Orthanc did not come up")


@pytest.mark.requirement("R8")
def test_orthanc_takes_the_objects_and_gives_them_back(orthanc: str) -> None:
    picture = dicom_samples.instance()
    header = instance(
        StudyInstanceUID=picture.StudyInstanceUID,
        SeriesInstanceUID=picture.SeriesInstanceUID,
        SOPInstanceUID=picture.SOPInstanceUID,
        SOPClassUID=picture.SOPClassUID,
        PatientID=picture.PatientID,
        PatientName=str(picture.PatientName),
        StudyDate=picture.StudyDate,
        StudyTime=picture.StudyTime,
    )
    made = result(header)
    report = analysed(header, made)
    files = [
        dicom_samples.part10(picture),
        structured_report(made, report, 0, [source(header)]),
        capture(made, report, 0, source(header)),
    ]
    client = DICOMwebClient(f"{orthanc}/dicom-web")
    answer = client.store_instances([dcmread(io.BytesIO(file)) for file in files])
    assert len(answer.ReferencedSOPSequence) == 3
    assert not answer.get("FailedSOPSequence")
    # one study, in which the objects lie beside their source
    found = client.search_for_series(picture.StudyInstanceUID)
    assert {item["00080060"]["Value"][0] for item in found} == {"CT", "SR", "OT"}
    assert len(client.search_for_studies(search_filters={"PatientID": picture.PatientID})) == 1
    for file in files[1:]:
        sent = dcmread(io.BytesIO(file))
        back = client.retrieve_instance(sent.StudyInstanceUID, sent.SeriesInstanceUID, sent.SOPInstanceUID)
        assert back.SOPInstanceUID == sent.SOPInstanceUID
        assert back.PatientName == sent.PatientName
        if sent.Modality == "SR":
            assert back.ContentSequence == sent.ContentSequence
        else:
            rendered = client.retrieve_instance_rendered(
                sent.StudyInstanceUID, sent.SeriesInstanceUID, sent.SOPInstanceUID
            )
            assert rendered
