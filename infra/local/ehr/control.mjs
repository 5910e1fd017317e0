/**
 * Faults and variations for tests, off unless EHR_CONTROL_TOKEN is set.
 *
 * PUT /control/state replaces the state below, DELETE resets it, GET /control/log returns the requests of apps. What a test asks for is
 * given in one place for each answer, so that a further kind of fault is one more member here.
 */

import { timingSafeEqual } from 'node:crypto';
import { configuration } from './configuration.mjs';
import { registerClient } from './clients.mjs';
import { newLaunch } from './launch_contexts.mjs';
import { readJson, sendJson } from './http_answers.mjs';

const NEUTRAL = Object.freeze({
  // scopes to grant instead of those asked for; a string may also hold words that the engine would never grant
  grantScope: null,
  // members laid over each new launch's context, e.g. {"need_patient_banner": false, "fhirContext": [...]}
  context: {},
  // members laid over the token response; null deletes one
  tokenResponse: {},
  // status and body instead of the token response
  tokenFault: null,
  // claims laid over the id_token before it is signed; null deletes one
  idTokenClaims: {},
  // header members laid over the id_token's
  idTokenHeader: {},
  // own | next (the key that follows in a rotation) | foreign (a key that is not published) | none (unsigned)
  idTokenKey: 'own',
  // the keys that are published: own | both (while the EHR rotates) | next (after it has)
  publishedKeys: 'own',
  // members laid over the discovery document; null deletes one
  discovery: {},
  // {"status": 500} | {"body": "<html>"} | {"location": "..."} | {"delayMs": 30000} | {"bytes": 10000000} instead of the document
  discoveryFault: null,
  // the same for the key set
  jwksFault: null,
  // parameters laid over the authorization response; null deletes one
  authorizationResponse: {},
  // members laid over each Bundle of the FHIR proxy, e.g. {"link": [{"relation": "next", "url": "https://evil.test/"}]}
  bundle: {},
  // resources added to each searchset
  extraEntries: [],
  // status instead of each FHIR answer
  fhirFault: null,
});

let state = { ...NEUTRAL };
let log = [];

export function control() {
  return state;
}

/** Lay members over an object; null deletes one. */
export function overlay(target, members) {
  const result = { ...target, ...members };
  for (const [name, value] of Object.entries(members)) if (value === null) delete result[name];
  return result;
}

export function record(endpoint, request, parameters) {
  if (!configuration.controlToken) return;
  log.push({ endpoint, method: request.method, url: request.url, headers: request.headers, parameters });
  if (log.length > 500) log = log.slice(-500);
}

/** Answer with a fault, if a test has asked for one; say whether that was so. */
export async function answerFault(fault, response) {
  if (!fault) return false;
  if (fault.delayMs) await new Promise((resolve) => { setTimeout(resolve, fault.delayMs).unref(); });
  if (fault.status === undefined && fault.body === undefined && fault.location === undefined && !fault.bytes) return false;
  const headers = { 'content-type': fault.contentType ?? 'text/html', ...(fault.location ? { location: fault.location } : {}), ...fault.headers };
  response.writeHead(fault.status ?? (fault.location ? 302 : 200), headers);
  if (fault.bytes) response.end(Buffer.alloc(fault.bytes, 0x20));
  else response.end(typeof fault.body === 'string' ? fault.body : JSON.stringify(fault.body ?? {}));
  return true;
}

function permitted(request) {
  const sent = Buffer.from(request.headers.authorization ?? '');
  const wanted = Buffer.from(`Bearer ${configuration.controlToken}`);
  return sent.length === wanted.length && timingSafeEqual(sent, wanted);
}

export async function handleControl(request, response, path) {
  if (!configuration.controlToken) return sendJson(response, 404, { error: 'not found' });
  if (!permitted(request)) return sendJson(response, 401, { error: 'control token is missing or wrong' });
  const action = `${request.method} ${path}`;
  if (action === 'GET /control/state') return sendJson(response, 200, state);
  if (action === 'PUT /control/state') {
    const wanted = await readJson(request);
    const unknown = Object.keys(wanted).filter((name) => !(name in NEUTRAL));
    if (unknown.length) return sendJson(response, 400, { error: `unknown: ${unknown.join(', ')}` });
    state = { ...NEUTRAL, ...wanted };
    return sendJson(response, 200, state);
  }
  if (action === 'DELETE /control/state') {
    state = { ...NEUTRAL };
    log = [];
    return sendJson(response, 200, state);
  }
  if (action === 'GET /control/log') return sendJson(response, 200, log);
  if (action === 'POST /control/clients') {
    registerClient(await readJson(request));
    return sendJson(response, 201, {});
  }
  if (action === 'POST /control/launches') return sendJson(response, 201, { launch: newLaunch(await readJson(request)) });
  return sendJson(response, 404, { error: 'no such control' });
}
