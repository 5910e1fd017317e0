/** FHIR as the EHR offers it to apps: the service behind it, seen through the token's scopes and patient. */

import { answerFault, control, overlay, record } from './control.mjs';
import { belongsTo, isCompartmentType, isShared } from './compartment.mjs';
import { configuration } from './configuration.mjs';
import { capabilityStatement, smartConfiguration } from './discovery.mjs';
import { upstream } from './fhir_upstream.mjs';
import { readBody, sendJson, sendOutcome } from './http_answers.mjs';
import { contextOfGrant } from './launch_contexts.mjs';
import { allowedLevels } from './smart_scopes.mjs';

const FHIR_JSON = 'application/fhir+json';
const BASES = [configuration.fhirBase, configuration.fhirUpstream];
const PASSED_ON = ['if-match', 'if-none-match', 'if-none-exist', 'prefer'];
const PASSED_BACK = ['etag', 'last-modified', 'location', 'retry-after'];
const TYPE = /^[A-Z][A-Za-z]+$/;
const ID = /^[A-Za-z0-9\-.]{1,64}$/;

class Refused extends Error {
  constructor(status, code, text) {
    super(text);
    this.status = status;
    this.code = code;
  }
}

const forbidden = (text) => new Refused(403, 'forbidden', text);

async function bearer(request, provider) {
  const [scheme, value] = (request.headers.authorization ?? '').split(' ');
  if (scheme?.toLowerCase() !== 'bearer' || !value) throw new Refused(401, 'login', 'a bearer token is needed');
  const token = await provider.AccessToken.find(value) ?? await provider.ClientCredentials.find(value);
  if (!token || token.isExpired || token.aud !== configuration.fhirBase) throw new Refused(401, 'login', 'token is unknown, expired or for another server');
  const scope = control().grantScope === null || token.kind === 'ClientCredentials' ? token.scope : control().grantScope;
  return { scope: scope ?? '', patient: contextOfGrant(token.grantId).patient };
}

/** What a request wants to do: type, id, FHIR interaction as a letter of `cruds`. */
function target(method, path, parameters) {
  const parts = path.split('/').filter(Boolean).map(decodeURIComponent);
  const [type, second, third, fourth] = parts;
  if (!TYPE.test(type ?? '') || parts.length > 4) throw new Refused(404, 'not-found', 'no such address');
  if (method === 'GET' && parts.length === 1) return { type, interaction: 's', parameters };
  if (method === 'POST' && second === '_search' && parts.length === 2) return { type, interaction: 's', parameters };
  if (method === 'POST' && parts.length === 1) return { type, interaction: 'c', parameters };
  if (!ID.test(second ?? '')) throw new Refused(404, 'not-supported', 'operations are not offered');
  if (method === 'GET' && (parts.length === 2 || (third === '_history' && ID.test(fourth ?? '')))) return { type, id: second, interaction: 'r', parameters };
  if (method === 'PUT' && parts.length === 2) return { type, id: second, interaction: 'u', parameters };
  if (method === 'DELETE' && parts.length === 2) return { type, id: second, interaction: 'd', parameters };
  throw new Refused(405, 'not-supported', 'interaction is not offered');
}

/** The levels that allow it; at patient level alone the request is held to that patient. */
function authorize(access, { type, interaction }) {
  const levels = allowedLevels(access.scope, type, interaction);
  if (!levels.length) throw forbidden(`insufficient_scope: ${interaction} on ${type}`);
  const wide = levels.some(({ level }) => level !== 'patient');
  if (!wide && !access.patient) throw forbidden('a right at patient level without a patient');
  if (!wide && !isCompartmentType(type) && !isShared(type)) throw forbidden(`${type} is not in a patient's compartment`);
  const queries = levels.every(({ query }) => query) ? levels.map(({ query }) => query) : [];
  return { patient: wide ? undefined : access.patient, queries };
}

function holdSearchTo(patient, { type, parameters }) {
  if (isShared(type)) return;
  const given = type === 'Patient' ? parameters.getAll('_id') : [...parameters.getAll('patient'), ...parameters.getAll('subject')];
  const own = new Set([patient, `Patient/${patient}`, ...BASES.map((base) => `${base}/Patient/${patient}`)]);
  if (!given.length || !given.every((value) => own.has(value))) throw forbidden(`search on ${type} must be for the patient in context`);
}

async function readTarget(reference) {
  const answer = await upstream(`/${reference}`);
  return answer.ok ? answer.json() : undefined;
}

const isOwn = (resource, patient) => belongsTo(resource, patient, BASES, readTarget);

/** Leave out of a Bundle what the token may not see: included resources need a right, and the patient, like any other. */
async function filtered(bundle, access) {
  const kept = [];
  for (const entry of [...(bundle.entry ?? []), ...control().extraEntries]) {
    const { resource } = entry;
    const levels = ['r', 's'].flatMap((letter) => allowedLevels(access.scope, resource?.resourceType, letter));
    const wide = levels.some(({ level }) => level !== 'patient');
    const planted = control().extraEntries.includes(entry);
    if (planted || resource?.resourceType === 'OperationOutcome' || (levels.length && (wide || await isOwn(resource, access.patient)))) kept.push(entry);
  }
  return overlay({ ...bundle, entry: kept }, control().bundle);
}

function publicText(text) {
  return text.replaceAll(configuration.fhirUpstream, configuration.fhirBase);
}

function upstreamText(text) {
  return text.replaceAll(configuration.fhirBase, configuration.fhirUpstream);
}

async function forward(method, path, request, body) {
  const headers = {};
  for (const name of PASSED_ON) if (request.headers[name]) headers[name] = request.headers[name];
  if (body !== undefined) headers['content-type'] = FHIR_JSON;
  return upstream(path, { method, headers, body });
}

async function pass(answer, response, change = async (document) => document) {
  const text = await answer.text();
  let out = text;
  if (text && answer.ok) {
    try {
      out = JSON.stringify(await change(JSON.parse(text)));
    } catch (error) {
      if (error instanceof SyntaxError) throw new Refused(502, 'exception', 'FHIR service did not answer in JSON');
      throw error;
    }
  }
  const headers = { 'content-type': FHIR_JSON, 'cache-control': 'no-store' };
  for (const name of PASSED_BACK) if (answer.headers.get(name)) headers[name] = publicText(answer.headers.get(name));
  response.writeHead(answer.status, headers);
  response.end(publicText(out));
}

async function search(access, wanted, response) {
  const { patient, queries } = authorize(access, wanted);
  if (patient) holdSearchTo(patient, wanted);
  const parameters = withUpstreamBase(wanted.parameters);
  if (queries.length === 1) for (const [name, value] of new URLSearchParams(queries[0])) parameters.append(name, value);
  const answer = await upstream(`/${wanted.type}?${parameters}`);
  await pass(answer, response, (bundle) => filtered(bundle, access));
}

/** Parameters with this server's own base replaced. */
function withUpstreamBase(parameters) {
  const replaced = new URLSearchParams();
  for (const [name, value] of parameters) replaced.append(name, upstreamText(value));
  return replaced;
}

async function read(access, wanted, path, request, response) {
  const { patient, queries } = authorize(access, wanted);
  const answer = await forward('GET', path, request);
  await pass(answer, response, async (resource) => {
    if (patient && !(await isOwn(resource, patient))) throw forbidden(`${wanted.type} is not the patient's`);
    if (queries.length && !(await matchesQuery(wanted, queries))) throw forbidden('resource is outside of the granted query');
    return resource;
  });
}

async function matchesQuery({ type, id }, queries) {
  const found = await Promise.all(queries.map(async (query) => {
    const answer = await upstream(`/${type}?_id=${id}&${query}`);
    return answer.ok && ((await answer.json()).entry ?? []).length > 0;
  }));
  return found.some(Boolean);
}

async function write(access, wanted, path, request, response, body) {
  const { patient } = authorize(access, wanted);
  const text = upstreamText(body.toString('utf8'));
  const resource = wanted.interaction === 'd' ? undefined : parse(text);
  if (resource && resource.resourceType !== wanted.type) throw new Refused(400, 'invalid', 'resourceType is not the address\'s');
  if (patient) {
    if (resource && !(await isOwn(resource, patient))) throw forbidden(`${wanted.type} is not the patient's`);
    if (wanted.id) {
      const before = await readTarget(`${wanted.type}/${wanted.id}`);
      if (before && !(await isOwn(before, patient))) throw forbidden(`${wanted.type} is not the patient's`);
    }
  }
  await pass(await forward(request.method, path, request, resource && text), response);
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Refused(400, 'structure', 'body is not JSON');
  }
}

/** Transactions and batches: each entry needs its own right. */
async function transaction(access, request, response, body) {
  const text = upstreamText(body.toString('utf8'));
  const bundle = parse(text);
  for (const entry of bundle.entry ?? []) {
    const [path, query] = (entry.request?.url ?? '').split('?');
    const wanted = target(entry.request?.method, path, new URLSearchParams(query ?? ''));
    const { patient } = authorize(access, wanted);
    if (patient && wanted.interaction === 's') holdSearchTo(patient, wanted);
    if (patient && 'cu'.includes(wanted.interaction) && !(await isOwn(entry.resource, patient))) throw forbidden(`${wanted.type} is not the patient's`);
    if (patient && wanted.id) {
      const before = await readTarget(`${wanted.type}/${wanted.id}`);
      if (before && !(await isOwn(before, patient))) throw forbidden(`${wanted.type} is not the patient's`);
    }
  }
  await pass(await forward('POST', '', request, text), response);
}

async function open(request, response, path) {
  if (path === '/.well-known/smart-configuration') {
    record('discovery', request, {});
    if (await answerFault(control().discoveryFault, response)) return true;
    sendJson(response, 200, smartConfiguration(), { 'access-control-allow-origin': '*' });
    return true;
  }
  if (path === '/metadata') {
    const statement = await capabilityStatement();
    if (statement) sendJson(response, 200, statement, { 'content-type': FHIR_JSON });
    else sendOutcome(response, 503, 'transient', 'the FHIR service is away');
    return true;
  }
  return false;
}

/** Answer a request below /fhir. */
export async function handleFhir(request, response, url, provider) {
  const path = url.pathname.slice('/fhir'.length).replace(/\/$/, '');
  if (request.method === 'GET' && await open(request, response, path)) return;
  record('fhir', request, {});
  try {
    const access = await bearer(request, provider);
    if (await answerFault(control().fhirFault, response)) return;
    const body = request.method === 'GET' ? undefined : await readBody(request);
    if (request.method === 'POST' && path === '') return void await transaction(access, request, response, body);
    const parameters = new URLSearchParams(url.search);
    if (path.endsWith('/_search')) for (const [name, value] of new URLSearchParams(body?.toString('utf8'))) parameters.append(name, value);
    const wanted = target(request.method, path, parameters);
    if (wanted.interaction === 's') await search(access, wanted, response);
    else if (wanted.interaction === 'r') await read(access, wanted, path, request, response);
    else await write(access, wanted, path, request, response, body);
  } catch (error) {
    if (error instanceof Refused) {
      const challenge = error.status === 401 ? { 'www-authenticate': `Bearer realm="${configuration.fhirBase}", error="invalid_token"` } : {};
      sendOutcome(response, error.status, error.code, error.message, challenge);
    } else if (error.name === 'TimeoutError' || error instanceof TypeError) {
      sendOutcome(response, 503, 'transient', 'the FHIR service is away', { 'retry-after': '5' });
    } else throw error;
  }
}
