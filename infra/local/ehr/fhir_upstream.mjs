/** The FHIR service behind the EHR, as the EHR's own pages use it. */

import { configuration } from './configuration.mjs';

const FHIR_JSON = 'application/fhir+json';

export class FhirFailure extends Error {
  constructor(status, what) {
    super(`${what}: ${status}`);
    this.status = status;
  }
}

export function upstreamHeaders(extra = {}) {
  const headers = { accept: FHIR_JSON, ...extra };
  if (configuration.fhirUpstreamToken) headers.authorization = `Bearer ${configuration.fhirUpstreamToken}`;
  return headers;
}

export async function upstream(path, { method = 'GET', headers, body } = {}) {
  return fetch(`${configuration.fhirUpstream}${path}`, {
    method,
    headers: upstreamHeaders(headers),
    body,
    redirect: 'error',
    signal: AbortSignal.timeout(20_000),
  });
}

export async function readResource(type, id) {
  const answer = await upstream(`/${type}/${encodeURIComponent(id)}`);
  if (answer.status === 404 || answer.status === 410) return undefined;
  if (!answer.ok) throw new FhirFailure(answer.status, `read ${type}`);
  return answer.json();
}

export async function searchResources(type, parameters) {
  const answer = await upstream(`/${type}?${new URLSearchParams(parameters)}`);
  if (!answer.ok) throw new FhirFailure(answer.status, `search ${type}`);
  const bundle = await answer.json();
  return { total: bundle.total, resources: (bundle.entry ?? []).map(({ resource }) => resource).filter((item) => item?.resourceType === type) };
}

export async function putResource(resource) {
  const answer = await upstream(`/${resource.resourceType}/${resource.id}`, {
    method: 'PUT',
    headers: { 'content-type': FHIR_JSON },
    body: JSON.stringify(resource),
  });
  if (!answer.ok) throw new FhirFailure(answer.status, `update ${resource.resourceType}`);
}
