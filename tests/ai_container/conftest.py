from __future__ import annotations

import io

import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

from ai_container.analyser import Analyser
from ai_container.registry import Registry
from imaging_core.dicom.child import DecodePool
from imaging_core.settings import load_settings


def sample(name: str) -> bytes:
    """Return a file of pydicom-data."""
    path = get_testdata_file(name)
    assert path, f"pydicom-data holds no {name}"
    with open(path, "rb") as file:
        return file.read()


def changed(data: bytes, **attributes: object) -> bytes:
    """Return a DICOM file with other attributes; None deletes one, UIDs stay equal in header and data set."""
    dataset = dcmread(io.BytesIO(data))
    for keyword, value in attributes.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return saved(dataset)


def saved(dataset: Dataset) -> bytes:
    """Return the DICOM Part 10 file of a data set."""
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


@pytest.fixture(scope="session")
def chest() -> bytes:
    """The chest CR of pydicom-data, uncompressed: MONOCHROME1, born 1940, taken 2004."""
    return sample("RG1_UNCR.dcm")


@pytest.fixture(scope="session")
def registry() -> Registry:
    """The bundles of the package."""
    return Registry.from_settings(load_settings())


@pytest.fixture(scope="session")
def analyser(registry: Registry, decoder: DecodePool) -> Analyser:
    """Every model, loaded."""
    return Analyser(registry, decoder)
