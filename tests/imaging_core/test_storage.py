"""Blob and queue: typed errors, and no long wait before a sender is told."""

from __future__ import annotations

import pytest

from imaging_core.blobs import BlobMissing, BlobStore
from imaging_core.errors import Retryable
from imaging_core.queues import STUDIES, Queues
from imaging_core.settings import load_settings

AWAY = (
    "DefaultEndpointsProtocol=http;AccountName=away;AccountKey=YWJj;"
    "BlobEndpoint=http://127.0.0.1:9/away;QueueEndpoint=http://127.0.0.1:9/away;"
)


def test_a_name_is_stored_once(blob_store: BlobStore, fresh_uid: str) -> None:
    assert blob_store.put_new("images", fresh_uid, b"first", metadata={"kind": "x"})
    assert not blob_store.put_new("images", fresh_uid, b"second")
    assert blob_store.get("images", fresh_uid) == b"first"
    assert blob_store.info("images", fresh_uid).metadata == {"kind": "x"}
    assert [item.name for item in blob_store.list("images", fresh_uid)] == [fresh_uid]
    blob_store.delete("images", fresh_uid)
    blob_store.delete("images", fresh_uid)
    assert not blob_store.exists("images", fresh_uid)
    with pytest.raises(BlobMissing):
        blob_store.get("images", fresh_uid)


def test_storage_that_is_away_is_retryable() -> None:
    settings = load_settings(storage_connection_string=AWAY)
    with pytest.raises(Retryable) as caught:
        BlobStore.from_settings(settings).put_new("images", "x", b"x")
    assert caught.value.code == "storage-unavailable"
    with pytest.raises(Retryable) as caught:
        Queues.from_settings(settings).send(STUDIES, {"study_uid": "1.2"})
    assert caught.value.code == "storage-unavailable"
