"""The Functions host runs each trigger type through Microsoft's worker core, against Azurite."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from .conftest import Host, eventually

Start = Callable[..., AbstractContextManager[Host]]


@pytest.fixture(scope="module")
def host(start_host: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with start_host(tmp_path_factory.mktemp("host"), FUNCTIONS_REQUEST_BODY_SIZE_LIMIT="1000") as running:
        yield running


def test_http_request_reaches_the_function_whole(host: Host) -> None:
    answer = host.client.post(
        f"{host.url}/things/a%2Fb?x=1&x=2&y=", content=b"123", headers={"X-Test": "T", "traceparent": TRACEPARENT}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-seen"] == "yes"
    document = answer.json()
    assert document.pop("url").startswith(host.url)
    assert document == {
        "method": "POST",
        "thing": "a/b",
        "query": {"x": "1,2", "y": ""},
        "header": "T",
        "size": 3,
        "traceparent": TRACEPARENT,
    }


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_log_is_json_with_the_trace_and_without_exception_texts(host: Host) -> None:
    host.client.get(f"{host.url}/broken", headers={"traceparent": TRACEPARENT})
    lines = [line for line in host.log_lines() if line.get("function") == "broken"]
    assert lines[-1]["trace_id"] == TRACEPARENT.split("-")[1]
    assert lines[-1]["error"] == "ValueError"
    assert "a secret" not in host.log.read_text()


def test_exception_is_a_bare_500(host: Host) -> None:
    answer = host.client.get(f"{host.url}/broken")
    assert (answer.status_code, answer.content) == (500, b"")


@pytest.mark.parametrize(("method", "path"), [("GET", "/nothing"), ("PUT", "/things/x"), ("GET", "/things/x/y")])
def test_unknown_route_or_method_is_404(host: Host, method: str, path: str) -> None:
    assert host.client.request(method, host.url + path).status_code == 404


def test_literal_route_wins_over_a_template(host: Host) -> None:
    assert host.client.get(f"{host.url}/things/special").text == "literal segments win"


def test_body_above_the_limit_is_413_with_and_without_content_length(host: Host) -> None:
    assert host.client.post(f"{host.url}/things/x", content=b"x" * 1000).status_code == 200
    assert host.client.post(f"{host.url}/things/x", content=b"x" * 1001).status_code == 413
    assert host.client.post(f"{host.url}/things/x", content=iter([b"x" * 600, b"x" * 600])).status_code == 413


def test_requests_run_at_once(host: Host) -> None:
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda _: host.client.get(f"{host.url}/meet"), range(2)))
    assert [answer.text for answer in answers] == ["met", "met"]


def test_queue_output_feeds_the_queue_trigger(host: Host) -> None:
    assert host.client.post(f"{host.url}/orders", content=b"ordered").status_code == 202
    seen = eventually(lambda: host.seen("queue", body="ordered"))
    assert seen[0]["tries"] == 1
    assert seen[0]["inserted"] != "None"


def test_failing_message_is_tried_maxdequeuecount_times_then_poison(host: Host) -> None:
    host.put("work", "poison")
    assert eventually(lambda: host.seen("poison", body="poison"))
    assert [item["tries"] for item in host.seen("queue", body="poison")] == [1, 2]


def test_message_that_is_not_base64_is_poison(host: Host) -> None:
    host.queues.get_queue_client("work").send_message("%%%")
    eventually(lambda: any("message moved" in line["event"] and line["tries"] == 1 for line in host.log_lines()))


def test_warm_up_runs_once_before_the_first_request(host: Host) -> None:
    assert len(host.seen("warmup")) == 1


def test_timer_runs_on_startup_and_by_its_schedule(host: Host) -> None:
    assert len(eventually(lambda: len(host.seen("timer")) >= 2 and host.seen("timer"))) >= 2


def test_blob_event_comes_once_per_version(host: Host) -> None:
    incoming = host.blobs.get_container_client("incoming")
    eventually(incoming.exists)
    incoming.upload_blob("a/b.dcm", b"12345", metadata={"key": "value"})
    seen = eventually(lambda: host.seen("blob", name="incoming/a/b.dcm"))
    assert seen == [
        {"trigger": "blob", "name": "incoming/a/b.dcm", "size": 5, "length": 5, "metadata": {"key": "value"}}
    ]
    incoming.upload_blob("a/b.dcm", b"123456", overwrite=True)
    eventually(lambda: host.seen("blob", name="incoming/a/b.dcm", size=6))
    assert len(host.seen("blob", name="incoming/a/b.dcm")) == 2


def test_failing_blob_is_given_up_to_the_poison_queue(host: Host) -> None:
    incoming = host.blobs.get_container_client("incoming")
    eventually(incoming.exists)
    incoming.upload_blob("bad.dcm", b"poison")
    poison = host.queues.get_queue_client("webjobs-blobtrigger-poison")
    eventually(lambda: any("blob given up" in line["event"] for line in host.log_lines()))
    assert poison.get_queue_properties().approximate_message_count
    assert len(host.seen("blob", name="incoming/bad.dcm")) == 2


def test_sigterm_finishes_requests_and_restart_repeats_no_event(start_host: Start, tmp_path: Path) -> None:
    with start_host(tmp_path) as first:
        incoming = first.blobs.get_container_client("incoming")
        eventually(incoming.exists)
        incoming.upload_blob("once.dcm", b"1", overwrite=True)
        eventually(lambda: first.seen("blob", name="incoming/once.dcm"))
        answers = []
        request = threading.Thread(target=lambda: answers.append(first.client.get(f"{first.url}/slow")))
        request.start()
        eventually(lambda: first.seen("slow"))
        first.process.send_signal(signal.SIGTERM)
        (tmp_path / "release").touch()
        request.join(30)
        assert [answer.text for answer in answers] == ["finished"]
        assert first.process.wait(30) == 0
    with start_host(tmp_path) as second:
        second.blobs.get_container_client("incoming").upload_blob("later.dcm", b"22", overwrite=True)
        eventually(lambda: second.seen("blob", name="incoming/later.dcm"))
        assert len(second.seen("blob", name="incoming/once.dcm")) == 1
        assert eventually(lambda: second.seen("timer", past_due=True))


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("x = 1", "Could not find top level function app"),
        ("import no_such_module_anywhere", "no_such_module_anywhere"),
        (
            "import azure.functions as func\napp = func.FunctionApp()\n\n"
            "@app.timer_trigger(arg_name='t', schedule='* * * * *')\ndef f(other: func.TimerRequest) -> None: ...\n",
            "other",
        ),
    ],
)
def test_app_that_azure_would_refuse_does_not_start(start_host: Start, tmp_path: Path, source: str, fault: str) -> None:
    app = tmp_path / "function_app.py"
    app.write_text(source)
    with pytest.raises(AssertionError, match=fault), start_host(tmp_path, app):
        pass
