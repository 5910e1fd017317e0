"""From image to findings, heatmap and FHIR results."""
