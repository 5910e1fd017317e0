"""Several processes serve one app: they share launches, and refresh a token once for all."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from infra.local.ca import Certificates
from smart_launch import Keyring
from tests.conftest import Stores
from tests.smart_launch.scene import GRANTED
from tests.smart_launch.strict_ehr import StrictEhr
from tests.smart_launch.test_refresh import expire
from tests.smart_launch.workers import free_port, serving_workers


@pytest.mark.requirement("S74", "XG2", "XG1")
def test_two_processes_refresh_a_token_once(
    ehr: StrictEhr, stores: Stores, certificates: Certificates, owner: psycopg.Connection[Any], tmp_path: Path
) -> None:
    registration = f"""
[[ehr]]
name = "ehr-a"
iss = "{ehr.iss}"
client_id = "{ehr.client_id}"
client_auth = "none"
scopes = "{GRANTED}"
"""
    ehr.resources["Patient/p1"] = {"resourceType": "Patient", "id": "p1"}
    keys = Keyring.new_key("k")
    with serving_workers(
        tmp_path,
        free_port(),
        registration,
        database_url=stores.url("imaging_page"),
        keys=keys,
        certificates=certificates,
    ) as workers:
        browser = workers.browser()
        answer = ehr.authorize(browser.get(f"{workers.origin}/launch?iss={ehr.iss}&launch=x").location)
        query = "&".join(f"{name}={value}" for name, value in answer.items())
        path = browser.get(f"{workers.origin}/callback/ehr-a?{query}").location
        for _ in range(3):
            expire(owner, path.removeprefix(workers.origin))
            before = ehr.paths().count("/token")
            with ThreadPoolExecutor(12) as threads:
                statuses = list(threads.map(lambda _: browser.get(f"{path}patient").status, range(12)))
            assert statuses == [200] * 12
            assert ehr.paths().count("/token") == before + 1  # the double takes each refresh token once
        assert ehr.failures == []
        pids = {line.split("[")[2].split("]")[0] for line in workers.log.read_text().splitlines() if "Booting" in line}
        assert len(pids) == 2
        assert json.loads(browser.get(f"{path}patient").text)["id"] == "p1"
