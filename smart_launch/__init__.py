"""A SMART App Launch 2.2 client as a Flask blueprint.

>>> smart = SmartLaunch(load_registrations("ehrs.toml"), SessionStore(pool, Keyring.parse(app_keys)), base_url)
>>> smart.init_app(app)
>>> launch = smart.require(launch_id)                      # in a view below /l/<launch_id>/
>>> smart.fhir(launch).get_json(f"Patient/{launch.patient}")
"""

from smart_launch.backend_services import BackendServices
from smart_launch.errors import FhirAccessError, LaunchError, SmartConfigurationError
from smart_launch.fhir_session import FhirSession
from smart_launch.introspection import Introspection
from smart_launch.keyring import Keyring
from smart_launch.launch_context import ContextItem, LaunchContext
from smart_launch.launch_session import LaunchSession
from smart_launch.registration import Registration, load_registrations
from smart_launch.scopes import ResourceScope, ScopeSet
from smart_launch.session_store import OpenLaunch, SessionStore
from smart_launch.smart import SmartLaunch

__all__ = [
    "BackendServices",
    "ContextItem",
    "FhirAccessError",
    "FhirSession",
    "Introspection",
    "Keyring",
    "LaunchContext",
    "LaunchError",
    "LaunchSession",
    "OpenLaunch",
    "Registration",
    "ResourceScope",
    "ScopeSet",
    "SessionStore",
    "SmartConfigurationError",
    "SmartLaunch",
    "load_registrations",
]
