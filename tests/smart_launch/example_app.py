"""The smallest application on `smart_launch`: a page that says what it knows, one that reads FHIR, one with a form."""

from __future__ import annotations

from typing import Any

from flask import Flask, jsonify

from smart_launch import SmartLaunch


def make_app(smart: SmartLaunch) -> Flask:
    app = Flask("example_app")
    smart.init_app(app)

    @app.get("/l/<launch_id>/")
    def home(launch_id: str) -> Any:
        launch = smart.require(launch_id)
        return jsonify(
            ehr=launch.ehr.name,
            patient=launch.patient,
            encounter=launch.encounter,
            subject=launch.subject,
            issuer=launch.issuer,
            fhir_user=launch.fhir_user,
            banner=launch.need_patient_banner,
            intent=launch.intent,
            scopes=launch.scopes.text,
            context=[vars(item) for item in launch.fhir_context],
            csrf_token=launch.csrf_token,
            may_read_studies=launch.scopes.allows("patient", "ImagingStudy", "s"),
        )

    @app.get("/l/<launch_id>/patient")
    def patient(launch_id: str) -> Any:
        launch = smart.require(launch_id)
        return jsonify(smart.fhir(launch).get_json(f"Patient/{launch.patient}"))

    @app.get("/l/<launch_id>/studies")
    def studies(launch_id: str) -> Any:
        launch = smart.require(launch_id)
        found = smart.fhir(launch).search("ImagingStudy", {"patient": launch.patient or ""})
        return jsonify([study["id"] for study in found])

    @app.get("/l/<launch_id>/read/<path:target>")
    def read(launch_id: str, target: str) -> Any:
        return jsonify(smart.fhir(smart.require(launch_id)).get_json(target))

    @app.post("/l/<launch_id>/sign")
    def sign(launch_id: str) -> Any:
        return jsonify(signed=smart.require(launch_id).launch_id)

    @app.post("/upload")
    def upload() -> Any:
        return jsonify(launches=[launch.launch_id for launch in smart.current_launches()])

    return app
