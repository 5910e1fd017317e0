"""Bundle entries, and the question whether a write would change anything (I1, I2).

Sending the same thing again must change nothing, not even a version number. So what would be written is compared with
what is stored, and an equal resource is not written.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import fhirkit

from fhir_adapter.client import Resource, etag
from fhir_adapter.errors import FhirPermanent

__all__ = ["check", "first", "put_entry", "reference", "same", "written_version"]

_SERVER_META = ("versionId", "lastUpdated")
_TOLERANCE = 5e-4


def first(elements: list[Resource] | None) -> Resource:
    """Return the first of a repeating element; an empty one where there is none."""
    return elements[0] if elements else {}


def reference(resource: Resource) -> str:
    """Return ``Type/id``."""
    return f"{resource['resourceType']}/{resource['id']}"


def put_entry(resource: Resource, stored: Resource | None) -> Resource:
    """Return the transaction entry that writes `resource`, with ``ifMatch`` where something is stored already."""
    request: Resource = {"method": "PUT", "url": reference(resource)}
    if stored is not None and (tag := etag(stored)):
        request["ifMatch"] = tag
    return {"resource": resource, "request": request}


def written_version(answer: Resource) -> str:
    """Return the version that an entry of a transaction's answer tells: by its ETag, else by the resource itself."""
    tag = str((answer.get("response") or {}).get("etag") or "").removeprefix("W/").strip('"')
    return tag or str(((answer.get("resource") or {}).get("meta") or {}).get("versionId") or "")


def same(new: Resource, stored: Resource | None, ignoring: Iterable[str] = ()) -> bool:
    """Return whether writing `new` over `stored` would change nothing.

    Parameters
    ----------
    ignoring : iterable of str
        Dotted paths that don't count besides ``meta.versionId`` and ``meta.lastUpdated``, for example ``issued`` or
        ``presentedForm.data``.
    """
    if stored is None:
        return False
    paths = [f"meta.{key}" for key in _SERVER_META]
    paths.extend(ignoring)
    return _equal(_without(new, paths), _without(stored, paths))


def check(resources: Iterable[Resource]) -> None:
    """Refuse a resource that is structurally no FHIR R4, before it is sent.

    Raises
    ------
    FhirPermanent
        With the first faults: paths and rules, no values.
    """
    for resource in resources:
        faults = [issue for issue in fhirkit.validate(resource) if issue.severity == "error"]
        if faults:
            told = "; ".join(f"{fault.path}: {fault.message}" for fault in faults[:3])
            raise FhirPermanent(f"{resource.get('resourceType')} is not valid R4 ({told})")


def _without(resource: Resource, paths: Iterable[str]) -> Resource:
    bare = copy.deepcopy(resource)
    for path in paths:
        _drop(bare, path.split("."))
    if bare.get("meta") == {}:
        del bare["meta"]
    return bare


def _drop(node: Any, path: list[str]) -> None:
    if isinstance(node, list):
        for item in node:
            _drop(item, path)
    elif isinstance(node, dict):
        if len(path) == 1:
            node.pop(path[0], None)
        elif path[0] in node:
            _drop(node[path[0]], path[1:])


def _equal(left: Any, right: Any) -> bool:
    # a probability may differ in its last digits between two machines' arithmetic; that says nothing new
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    if isinstance(left, float) or isinstance(right, float):
        both = isinstance(left, int | float) and isinstance(right, int | float)
        return both and math.isclose(left, right, rel_tol=0.0, abs_tol=_TOLERANCE)
    return bool(left == right)
