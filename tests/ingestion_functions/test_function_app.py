"""The app as Azure's worker indexes it: Microsoft's own worker code, in a process of its own."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imaging_core.settings import load_settings

APP = Path(__file__).parents[2] / "ingestion_functions" / "function_app.py"
_INDEX = """
import asyncio, json, sys
from pathlib import Path
from infra.local.functions_host.worker import Worker
functions = asyncio.run(Worker(Path(sys.argv[1])).start())
found = {item.name: {"type": item.trigger.type, **dict(item.trigger.options)} for item in functions}
print(json.dumps(found, default=str))
"""


@pytest.fixture(scope="module")
def triggers() -> dict[str, dict[str, Any]]:
    done = subprocess.run([sys.executable, "-c", _INDEX, str(APP)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    ("name", "route", "methods"),
    [
        ("stow", "dicomweb/studies", ["POST"]),
        ("stow_study", "dicomweb/studies/{study}", ["POST"]),
        ("images", "images", ["POST"]),
        ("uploads", "uploads", ["POST"]),
        ("upload_progress", "uploads/{upload_id}", ["GET"]),
        ("intake_progress", "intake/{intake_id}", ["GET"]),
        ("holds", "holds", ["GET"]),
        ("hold", "holds/{study}", ["GET"]),
        ("hold_resolution", "holds/{study}/resolution", ["POST"]),
        ("quarantine", "quarantine", ["GET"]),
        ("quarantined", "quarantine/{intake_id}", ["GET"]),
        ("quarantine_decision", "quarantine/{intake_id}/decision", ["POST"]),
        ("health", "health", ["GET"]),
        ("ready", "ready", ["GET"]),
        ("openapi", "openapi.json", ["GET"]),
    ],
)
def test_http_triggers(triggers: dict[str, dict[str, Any]], name: str, route: str, methods: list[str]) -> None:
    trigger = triggers[name]
    assert trigger["type"] == "httpTrigger"
    assert trigger["route"] == route
    assert [str(method).upper() for method in trigger["methods"]] == methods
    assert str(trigger["authLevel"]).upper() == "ANONYMOUS"  # no function keys: tokens are checked in `http_api.answer`


@pytest.mark.parametrize(
    ("name", "queue"),
    [
        ("register", "studies"),
        ("analyse", "analyses"),
        ("archive", "archives"),
        ("archive_poison", "archives-poison"),
        ("register_poison", "studies-poison"),
        ("analyse_poison", "analyses-poison"),
    ],
)
def test_queue_triggers(triggers: dict[str, dict[str, Any]], name: str, queue: str) -> None:
    assert (triggers[name]["type"], triggers[name]["queueName"]) == ("queueTrigger", queue)
    assert triggers[name]["connection"] == "AzureWebJobsStorage"


def test_blob_and_timer_triggers(triggers: dict[str, dict[str, Any]]) -> None:
    assert (triggers["drop"]["type"], triggers["drop"]["path"]) == ("blobTrigger", "incoming/{name}")
    assert str(triggers["drop"]["source"]) == "EventGrid"  # the polling trigger skips files
    assert triggers["drop"]["properties"]["SupportsDeferredBinding"]  # the host sends no content
    assert (triggers["drop_sweep"]["type"], triggers["drop_sweep"]["schedule"]) == ("timerTrigger", "15 * * * * *")
    assert (triggers["sweep"]["type"], triggers["sweep"]["schedule"]) == ("timerTrigger", "*/30 * * * * *")
    assert triggers["warm_up"]["type"] == "warmupTrigger"
    assert len(triggers) == 25


def test_host_json_retries_queues() -> None:
    host = json.loads(APP.with_name("host.json").read_text())
    queues = host["extensions"]["queues"]
    assert queues["maxDequeueCount"] == 5
    assert queues["visibilityTimeout"] == "00:00:10"
    assert host["extensions"]["http"]["routePrefix"] == "api"
    # each step holds a connection while it waits for FHIR or the model: intake must always find one of its own
    steps = 2 * (queues["batchSize"] + queues["newBatchThreshold"])
    assert load_settings().database_pool_size >= steps + 8


def test_the_app_holds_bindings_and_nothing_else() -> None:
    """Each function is one call or one return of a call."""
    tree = ast.parse(APP.read_text())
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            assert node.decorator_list, node.name
            body = [
                item for item in node.body if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
            ]
            assert len(body) == 1, node.name
            assert isinstance(body[0], ast.Return | ast.Expr), node.name
