"""Everything that knows FHIR R4: resources, identity, client, bundles, audit."""
