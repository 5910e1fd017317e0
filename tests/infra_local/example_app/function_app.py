"""A function app with one function per trigger type; what each saw goes to a file, one JSON object a line."""

import json
import os
import threading
import time
from pathlib import Path

import azure.functions as func
from azure.functions.warmup import WarmUpContext

app = func.FunctionApp(http_auth_level=func.AuthLevel.ANONYMOUS)

SEEN = Path(os.environ["EXAMPLE_SEEN"])
MEETING = threading.Barrier(2)
WRITING = threading.Lock()


def saw(trigger: str, **what: object) -> None:
    with WRITING, SEEN.open("a") as file:
        file.write(json.dumps({"trigger": trigger, **what}) + "\n")


@app.route(route="things/{thing}", methods=["GET", "POST"])
def things(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    document = {
        "method": req.method,
        "url": req.url,
        "thing": req.route_params["thing"],
        "query": dict(req.params),
        "header": req.headers.get("X-Test"),
        "size": len(req.get_body()),
        "traceparent": context.trace_context.trace_parent,
    }
    return func.HttpResponse(json.dumps(document), mimetype="application/json", headers={"X-Seen": "yes"})


@app.route(route="things/special")
def special(req: func.HttpRequest) -> str:
    return "literal segments win"


@app.route(route="meet")
def meet(req: func.HttpRequest) -> func.HttpResponse:
    MEETING.wait(timeout=20)
    return func.HttpResponse("met")


@app.route(route="broken")
def broken(req: func.HttpRequest) -> func.HttpResponse:
    raise ValueError("a secret")


@app.route(route="slow")
def slow(req: func.HttpRequest) -> func.HttpResponse:
    saw("slow")
    released = SEEN.with_name("release")
    deadline = time.monotonic() + 20
    while not released.exists() and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return func.HttpResponse("finished")


@app.route(route="orders", methods=["POST"])
@app.queue_output(arg_name="out", queue_name="work", connection="AzureWebJobsStorage")
def orders(req: func.HttpRequest, out: func.Out[str]) -> func.HttpResponse:
    out.set(req.get_body().decode())
    return func.HttpResponse(status_code=202)


@app.queue_trigger(arg_name="msg", queue_name="work", connection="AzureWebJobsStorage")
def work(msg: func.QueueMessage) -> None:
    body = msg.get_body().decode()
    saw("queue", body=body, tries=msg.dequeue_count, id=msg.id, inserted=str(msg.insertion_time))
    if body == "poison":
        raise RuntimeError("never works")


@app.queue_trigger(arg_name="msg", queue_name="work-poison", connection="AzureWebJobsStorage")
def work_poison(msg: func.QueueMessage) -> None:
    saw("poison", body=msg.get_body().decode("utf-8", "replace"))


@app.timer_trigger(arg_name="timer", schedule="* * * * * *", run_on_startup=True)
def tick(timer: func.TimerRequest) -> None:
    saw("timer", past_due=timer.past_due)


@app.blob_trigger(arg_name="blob", path="incoming/{name}", connection="AzureWebJobsStorage", source="EventGrid")
def dropped(blob: func.InputStream) -> None:
    data = blob.read()
    saw("blob", name=blob.name, size=len(data), length=blob.length, metadata=blob.metadata)
    if data == b"poison":
        raise RuntimeError("never works")


@app.warm_up_trigger(arg_name="warm")
def warm_up(warm: WarmUpContext) -> None:
    saw("warmup")
