"""What a decode child finds wrong in a file does not get into the service's output with the file's values."""

from __future__ import annotations

import subprocess
import sys

import pytest

_READ = """
from imaging_core.dicom.child import DecodePool
from tests.dicom_samples import instance, part10
file = part10(instance(PatientName="Zzyzx^Quentin", SeriesNumber="1"))
file = file.replace(b"IS\\x02\\x001 ", b"IS\\x02\\x00Q7").replace(b"19700102", b"Q7Q7Q7Q7")
with DecodePool(workers=1) as pool:
    print(pool.header(file).sop_class_uid)
"""


@pytest.mark.requirement("D43")
def test_a_bad_value_is_not_repeated() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", _READ], capture_output=True, text=True, check=True, timeout=120
    )
    assert "1.2.840.10008.5.1.4.1.1.2" in done.stdout
    assert "Q7" not in done.stdout + done.stderr
