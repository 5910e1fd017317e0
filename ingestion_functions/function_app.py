"""The Functions app: bindings and nothing else. Azure's worker finds it by this name (Python v2 model)."""

from __future__ import annotations

import azure.functions as func
from azure.functions.warmup import WarmUpContext
from azurefunctions.extensions.bindings.blob import BlobClient  # type: ignore[import-untyped]  # Microsoft ships no types

from ingestion_functions import (
    admin_api,
    analyse,
    archive,
    drop,
    health,
    image_upload,
    openapi,
    progress,
    register,
    steps,
    stow,
    sweep,
    uploads,
)
from ingestion_functions.auth import ADMIN_ROLE
from ingestion_functions.http_api import answer

app = func.FunctionApp(
    http_auth_level=func.AuthLevel.ANONYMOUS
)  # tokens are checked in `answer`; there are no function keys


@app.function_name("stow")
@app.route(route="dicomweb/studies", methods=["POST"])
def store_instances(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """STOW-RS, PS3.18 10.5."""
    return answer(req, stow.store, context)


@app.function_name("stow_study")
@app.route(route="dicomweb/studies/{study}", methods=["POST"])
def store_study_instances(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """STOW-RS into one study, PS3.18 10.5."""
    return answer(req, stow.store, context)


@app.function_name("images")
@app.route(route="images", methods=["POST"])
def upload_image(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """PNG or JPEG with patient fields."""
    return answer(req, image_upload.upload, context)


@app.function_name("uploads")
@app.route(route="uploads", methods=["POST"])
def open_upload(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """Write-only addresses for a direct drop."""
    return answer(req, uploads.open_upload, context)


@app.function_name("upload_progress")
@app.route(route="uploads/{upload_id}", methods=["GET"])
def upload_progress(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """Each file's outcome."""
    return answer(req, uploads.upload_state, context)


@app.function_name("intake_progress")
@app.route(route="intake/{intake_id}", methods=["GET"])
def intake_progress(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """A delivery's outcome and how far its study has come."""
    return answer(req, progress.delivery, context)


@app.function_name("holds")
@app.route(route="holds", methods=["GET"])
def list_holds(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """Studies that wait for a person."""
    return answer(req, admin_api.list_holds, context, role=ADMIN_ROLE)


@app.function_name("hold")
@app.route(route="holds/{study}", methods=["GET"])
def show_hold(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """What a held study's headers say."""
    return answer(req, admin_api.show_hold, context, role=ADMIN_ROLE)


@app.function_name("hold_resolution")
@app.route(route="holds/{study}/resolution", methods=["POST"])
def resolve_hold(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """A person's decision about a held study."""
    return answer(req, admin_api.resolve_hold, context, role=ADMIN_ROLE)


@app.function_name("quarantine")
@app.route(route="quarantine", methods=["GET"])
def list_quarantine(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """Files in quarantine that wait for a person."""
    return answer(req, admin_api.list_quarantine, context, role=ADMIN_ROLE)


@app.function_name("quarantined")
@app.route(route="quarantine/{intake_id}", methods=["GET"])
def show_quarantined(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """One file in quarantine."""
    return answer(req, admin_api.show_quarantined, context, role=ADMIN_ROLE)


@app.function_name("quarantine_decision")
@app.route(route="quarantine/{intake_id}/decision", methods=["POST"])
def decide_quarantined(req: func.HttpRequest, context: func.Context) -> func.HttpResponse:
    """A person's decision about a file in quarantine."""
    return answer(req, admin_api.decide_quarantined, context, role=ADMIN_ROLE)


@app.function_name("health")
@app.route(route="health", methods=["GET"])
def live(req: func.HttpRequest) -> func.HttpResponse:
    """Liveness."""
    return health.live()


@app.function_name("ready")
@app.route(route="ready", methods=["GET"])
def ready(req: func.HttpRequest) -> func.HttpResponse:
    """Readiness of each dependency."""
    return health.ready()


@app.function_name("openapi")
@app.route(route="openapi.json", methods=["GET"])
def describe(req: func.HttpRequest) -> func.HttpResponse:
    """What these routes take and answer, as OpenAPI."""
    return openapi.serve()


@app.function_name("drop")
@app.blob_trigger(
    arg_name="blob", path="incoming/{name}", connection="AzureWebJobsStorage", source=func.BlobSource.EVENT_GRID
)
def blob_dropped(blob: BlobClient) -> None:
    """A file has arrived in container ``incoming``; as an SDK type, for the host to leave its content where it is."""
    drop.arrived(blob.blob_name)


@app.function_name("drop_sweep")
@app.timer_trigger(arg_name="timer", schedule="15 * * * * *", use_monitor=False)
def sweep_dropped(timer: func.TimerRequest) -> None:
    """Files in ``incoming`` whose events were lost."""
    drop.sweep()


@app.function_name("register")
@app.queue_trigger(arg_name="msg", queue_name="studies", connection="AzureWebJobsStorage")
def register_study(msg: func.QueueMessage) -> None:
    """A study should be looked at: link it to its patient, write its ImagingStudy."""
    steps.run(msg, register.register)


@app.function_name("analyse")
@app.queue_trigger(arg_name="msg", queue_name="analyses", connection="AzureWebJobsStorage")
def analyse_study(msg: func.QueueMessage) -> None:
    """A study should be analysed."""
    steps.run(msg, analyse.analyse)


@app.function_name("archive")
@app.queue_trigger(arg_name="msg", queue_name="archives", connection="AzureWebJobsStorage")
def archive_study(msg: func.QueueMessage) -> None:
    """A study's images may be compressed."""
    steps.run(msg, archive.archive)


@app.function_name("archive_poison")
@app.queue_trigger(arg_name="msg", queue_name="archives-poison", connection="AzureWebJobsStorage")
def archive_poison(msg: func.QueueMessage) -> None:
    """Compressing failed five times."""
    archive.give_up(msg)


@app.function_name("register_poison")
@app.queue_trigger(arg_name="msg", queue_name="studies-poison", connection="AzureWebJobsStorage")
def register_poison(msg: func.QueueMessage) -> None:
    """Registering failed five times."""
    steps.give_up(msg)


@app.function_name("analyse_poison")
@app.queue_trigger(arg_name="msg", queue_name="analyses-poison", connection="AzureWebJobsStorage")
def analyse_poison(msg: func.QueueMessage) -> None:
    """Analysing failed five times."""
    steps.give_up(msg)


@app.function_name("warm_up")
@app.warm_up_trigger(arg_name="warmup")
def warm_up(warmup: WarmUpContext) -> None:
    """Open connections and start the decode children before the first request comes."""
    health.warm_up()


@app.function_name("sweep")
@app.timer_trigger(arg_name="timer", schedule="*/30 * * * * *", use_monitor=False)
def sweep_unfinished(timer: func.TimerRequest) -> None:
    """Whatever is not converged goes back on its queue."""
    sweep.sweep()
