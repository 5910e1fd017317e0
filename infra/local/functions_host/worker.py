"""Microsoft's worker core in this process: indexes the function app, invokes its functions."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import azure_functions_runtime as core  # type: ignore[import-untyped]  # Microsoft ships no types

from imaging_core.errors import Permanent
from imaging_core.telemetry import get_logger
from infra.local.functions_host import messages
from infra.local.functions_host.messages import ParameterBinding, TypedData

__all__ = ["Binding", "Function", "InvocationFailed", "Outputs", "Worker", "new_traceparent"]

_log = get_logger("functions_host")


@dataclass(frozen=True)
class Binding:
    """One binding as the worker indexed it; `options` holds the keys of function.json (``queueName``, ``path`` ...)."""

    name: str
    type: str
    is_output: bool
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Function:
    """An indexed function: its trigger and its outputs by parameter name (``$return`` included)."""

    id: str
    name: str
    trigger: Binding
    outputs: Mapping[str, Binding]


@dataclass(frozen=True)
class Outputs:
    """What an invocation gave back."""

    returned: TypedData | None = None
    named: Mapping[str, TypedData] = field(default_factory=dict)


class InvocationFailed(Exception):
    """The function raised; the message names the exception's type and text."""


class Worker:
    """The function app of one folder.

    Parameters
    ----------
    app : Path
        Path of ``function_app.py``. Its folder is added to ``sys.path``: last, so that a module there that bears the
        name of one of Python's own can't break the host.
    """

    def __init__(self, app: Path) -> None:
        self._app = app.resolve()

    async def start(self) -> list[Function]:
        """Index the app.

        Returns
        -------
        list[Function]
            In the order of their definition.

        Raises
        ------
        Permanent
            With code ``bad-setting`` where there is no app or the worker refuses it (unbound parameter, wrong
            annotation, two apps, duplicate name, failed import).
        """
        if not self._app.is_file():
            raise Permanent("bad-setting", f"no function app at {self._app}")
        folder = str(self._app.parent)
        sys.path.append(folder)
        # the core looks the file's name up in the environment, as the real worker does
        os.environ["PYTHON_SCRIPT_FILE_NAME"] = self._app.name
        core.start_threadpool_executor()
        init = messages.request("worker_init_request", capabilities={}, function_app_directory=folder)
        init.properties.update(host="127.0.0.1", protos=messages)
        answer = await core.worker_init_request(init)
        if answer.result.status != messages.StatusResult.Success:
            raise Permanent("bad-setting", f"function app {self._app.name}: {answer.result.exception.stack_trace}")
        metadata = await core.functions_metadata_request(messages.request("functions_metadata_request"))
        return [_function(item) for item in metadata.function_metadata_results or []]

    async def invoke(
        self, function: Function, data: TypedData, metadata: Mapping[str, TypedData], traceparent: str
    ) -> Outputs:
        """Run `function` on its trigger's data; sync functions run in the worker's thread pool.

        Raises
        ------
        InvocationFailed
            The function raised.
        """
        invocation_id = str(uuid.uuid4())
        request = messages.request(
            "invocation_request",
            invocation_id=invocation_id,
            function_id=function.id,
            input_data=[ParameterBinding(name=function.trigger.name, data=data)],
            trigger_metadata=dict(metadata),
            trace_context=SimpleNamespace(trace_parent=traceparent, trace_state="", attributes={}),
            retry_context=SimpleNamespace(retry_count=0, max_retry_count=0, exception=None),
        )
        started = time.monotonic()
        response = await core.invocation_request(request)
        failure = response.result.exception if response.result.status != messages.StatusResult.Success else None
        _log_invocation(function, invocation_id, traceparent, time.monotonic() - started, failure)
        if failure is not None:
            raise InvocationFailed(failure.message)
        return Outputs(response.return_value, {item.name: item.data for item in response.output_data})

    def stop(self) -> None:
        """Wait for the functions in work and end the threads."""
        core.stop_threadpool_executor()


def new_traceparent() -> str:
    """Return a W3C ``traceparent`` of a new trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def _function(metadata: Any) -> Function:
    bindings = [_binding(json.loads(text)) for text in metadata.raw_bindings]
    trigger = next(binding for binding in bindings if binding.type.endswith("Trigger"))
    outputs = {binding.name: binding for binding in bindings if binding.is_output}
    return Function(metadata.function_id, metadata.name, trigger, outputs)


def _binding(raw: Mapping[str, Any]) -> Binding:
    return Binding(raw["name"], raw["type"], str(raw.get("direction", "IN")).upper() == "OUT", raw)


def _log_invocation(function: Function, invocation: str, traceparent: str, seconds: float, failure: Any) -> None:
    # trace_id is bound by hand: the function's own span is closed by now
    fields = {
        "function": function.name,
        "invocation": invocation,
        "trace_id": traceparent.split("-")[1] if traceparent.count("-") == 3 else "",
        "ms": round(seconds * 1000, 1),
    }
    if failure is None:
        _log.info("function done", **fields)
    else:
        # the type alone: an exception's text may repeat what the function was given
        _log.error("function failed", error=failure.message.split(":", 1)[0], **fields)
