/** Reading requests and writing answers of node:http. */

const MAX_BODY = 8 * 1024 * 1024;

export class BadRequest extends Error {}

export async function readBody(request) {
  const chunks = [];
  let size = 0;
  for await (const chunk of request) {
    size += chunk.length;
    if (size > MAX_BODY) throw new BadRequest('body is too large');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

export async function readForm(request) {
  return new URLSearchParams((await readBody(request)).toString('utf8'));
}

export async function readJson(request) {
  try {
    return JSON.parse((await readBody(request)).toString('utf8') || '{}');
  } catch {
    throw new BadRequest('body is not JSON');
  }
}

export function sendJson(response, status, document, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/json', 'cache-control': 'no-store', ...headers });
  response.end(JSON.stringify(document));
}

export function sendOutcome(response, status, code, text, headers = {}) {
  response.writeHead(status, { 'content-type': 'application/fhir+json', 'cache-control': 'no-store', ...headers });
  response.end(JSON.stringify({ resourceType: 'OperationOutcome', issue: [{ severity: 'error', code, diagnostics: text }] }));
}

export function redirect(response, location, headers = {}) {
  response.writeHead(303, { location, 'cache-control': 'no-store', ...headers });
  response.end();
}

export function cookie(request, name) {
  for (const part of (request.headers.cookie ?? '').split(';')) {
    const [key, ...value] = part.trim().split('=');
    if (key === name) return value.join('=');
  }
  return undefined;
}
