/** What the EHR itself reads for its pages. */

import { searchResources } from './fhir_upstream.mjs';

const LIST = 100;

/** Patients by name or number; all, if nothing is asked for. */
export async function findPatients(query) {
  const parameters = { _count: LIST, _sort: 'family' };
  if (!query) return (await searchResources('Patient', parameters)).resources;
  const [byName, byNumber] = await Promise.all([
    searchResources('Patient', { ...parameters, name: query }),
    searchResources('Patient', { ...parameters, identifier: query }),
  ]);
  const found = new Map([...byNumber.resources, ...byName.resources].map((patient) => [patient.id, patient]));
  return [...found.values()];
}

/** Examinations and reports of a patient, the latest first. */
export async function chartOf(patient) {
  const by = (member) => (a, b) => String(b[member] ?? '').localeCompare(String(a[member] ?? ''));
  const [studies, reports] = await Promise.all([
    searchResources('ImagingStudy', { patient, _count: LIST }),
    searchResources('DiagnosticReport', { patient, _count: LIST }),
  ]);
  return { studies: studies.resources.sort(by('started')), reports: reports.resources.sort(by('effectiveDateTime')) };
}
