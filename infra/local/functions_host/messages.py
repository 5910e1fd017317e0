"""The messages that the worker core exchanges with its host (FunctionRpc.proto), as plain classes.

The core is handed this module in place of the generated protobuf classes: it builds messages by keyword and reads their
attributes, nothing more. Names follow the protocol, hence the lower-case members.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

__all__ = [
    "BindingInfo",
    "FunctionMetadataResponse",
    "InvocationResponse",
    "ModelBindingData",
    "NullableBool",
    "NullableDouble",
    "NullableString",
    "NullableTimestamp",
    "ParameterBinding",
    "RpcException",
    "RpcFunctionMetadata",
    "RpcHttp",
    "RpcHttpCookie",
    "RpcRetryOptions",
    "StatusResult",
    "Timestamp",
    "TypedData",
    "WorkerInitResponse",
    "WorkerMetadata",
]


class Message(SimpleNamespace):
    """A message of which only the fields that were set exist."""


class WorkerMetadata(Message):
    """What the worker says of itself."""


class WorkerInitResponse(Message):
    """Answer to the init request: `result`, `capabilities`."""


class FunctionMetadataResponse(Message):
    """Answer to the metadata request: `function_metadata_results`."""


class RpcFunctionMetadata(Message):
    """One indexed function: `name`, `function_id`, `raw_bindings` (JSON texts)."""


class RpcRetryOptions(Message):
    """Retry policy of a decorator; the host takes retries from host.json, as Azure does for queues and blobs."""


class RpcException(Message):
    """Exception of a function: `message`, `stack_trace`."""


class InvocationResponse(Message):
    """Answer to an invocation: `result`, `return_value`, `output_data`."""

    return_value: TypedData | None = None
    output_data: tuple[ParameterBinding, ...] = ()


class StatusResult(Message):
    """Outcome: `status` and, where it failed, `exception`."""

    Failure = 0
    Success = 1
    exception: RpcException | None = None


class BindingInfo(Message):
    """Type and direction of a binding."""

    undefined = 0
    # "in" is a keyword: the core reads only these two
    out = 1
    inout = 2


class NullableString(Message):
    """Text or nothing."""


class NullableBool(Message):
    """Truth value or nothing."""


class NullableDouble(Message):
    """Number or nothing."""


class Timestamp(Message):
    """Seconds since 1970."""


class NullableTimestamp(Message):
    """Point in time or nothing."""


class RpcHttpCookie(Message):
    """One cookie of an answer."""

    SameSite = SimpleNamespace(**{"None": 0, "Lax": 1, "Strict": 2, "ExplicitNone": 3})


class RpcHttp(Message):
    """A request (`method`, `url`, `headers`, `params`, `query`, `body`) or an answer (`status_code`, `headers` ...)."""


class TypedData(Message):
    """Exactly one of `string`, `json`, `bytes`, `http`, `int`, `double` ..."""

    def WhichOneof(self, _group: str) -> str | None:
        """Return the name of the one field that is set."""
        return next(iter(vars(self)), None)


class ModelBindingData(Message):
    """Where the data of an SDK-type parameter is: `version`, `source`, `content_type`, `content` (JSON)."""


class ParameterBinding(Message):
    """A function's argument or output: `name` and `data`."""

    def WhichOneof(self, _group: str) -> str:
        """Return ``data``: shared memory is not offered."""
        return "data"


def request(kind: str, **fields: Any) -> SimpleNamespace:
    """Return a streaming message that holds one request of `kind`, e.g. ``invocation_request``."""
    return SimpleNamespace(request=SimpleNamespace(**{kind: SimpleNamespace(**fields)}), properties={})
