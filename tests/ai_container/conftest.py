from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import yaml
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file

import ai_container
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


def bundle_folder(target: Path, **changes: object) -> Path:
    """Return a bundle of the package's networks under another description, made in `target`."""
    source = Path(ai_container.__file__).parent / "bundles" / "chest-opacity" / "1.0.0"
    description = {**yaml.safe_load((source / "model.yaml").read_text("utf-8")), **changes}
    folder = target / str(description["name"]) / str(description["version"])
    shutil.copytree(source, folder)
    (folder / "model.yaml").write_text(yaml.safe_dump(description, allow_unicode=True), encoding="utf-8")
    return folder


CHILDREN = {
    "name": "chest-child",
    "version": "0.1.0",
    "task": "child-pneumonia",
    "scope": {
        "modalities": ["CR", "DX"],
        "body_parts": ["chest"],
        "views": ["frontal"],
        "age_years": {"least": 1, "below": 6},
    },
}
"""Changes that make the package's model one for children, to route by."""
