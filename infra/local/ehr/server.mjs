/** Sandbox EHR: patient pages, authorization server and FHIR, on one TLS port. */

import { createServer } from 'node:https';
import { createAuthorizationServer } from './authorization_server.mjs';
import { registerImagingApp, registerImagingBackend } from './clients.mjs';
import { configuration } from './configuration.mjs';
import { answerFault, control, handleControl, record } from './control.mjs';
import { ROUTES } from './discovery.mjs';
import { handleFhir } from './fhir_proxy.mjs';
import { FhirFailure } from './fhir_upstream.mjs';
import { BadRequest, sendJson, sendOutcome } from './http_answers.mjs';
import { handleInteraction } from './interaction.mjs';
import { html, pageHeaders, sendPage } from './markup.mjs';
import { messagePage } from './pages.mjs';
import { isSeeded, seedPractitioners } from './practitioners.mjs';
import { loadKeys, publishedKeys } from './signing_keys.mjs';
import { textsFor } from './texts.mjs';
import { handleWebsite } from './website.mjs';

const SEED_EVERY_MS = 2000;

async function renderError(ctx, out) {
  const texts = textsFor(ctx.req);
  const detail = [out.error, out.error_description].filter(Boolean).join(': ');
  ctx.set(pageHeaders());
  ctx.body = messagePage({ texts, title: texts.refused, text: texts.again, detail }).text;
}

const keys = await loadKeys();
const provider = createAuthorizationServer(keys, renderError);
const engine = provider.callback();
registerImagingApp();
registerImagingBackend();

/** The first users' resources are written as soon as the FHIR service is there. */
async function seed() {
  try {
    await seedPractitioners();
  } catch {
    setTimeout(seed, SEED_EVERY_MS).unref();
  }
}

async function route(request, response) {
  const url = new URL(request.url, configuration.origin);
  const { pathname } = url;
  if (pathname === '/healthz') return sendJson(response, 200, { status: 'ok', users: isSeeded() });
  if (pathname.startsWith('/control/')) return handleControl(request, response, pathname);
  if (pathname === '/fhir' || pathname.startsWith('/fhir/')) return handleFhir(request, response, url, provider);
  if (pathname === ROUTES.jwks) {
    record('jwks', request, {});
    if (await answerFault(control().jwksFault, response)) return undefined;
    if (control().publishedKeys !== 'own') return sendJson(response, 200, await publishedKeys(keys, control().publishedKeys));
  }
  if (pathname === ROUTES.authorization) record('authorize', request, Object.fromEntries(url.searchParams));
  if (pathname.startsWith('/oauth/') || pathname.startsWith('/.well-known/')) return engine(request, response);
  const texts = textsFor(request);
  if (pathname.startsWith('/interaction/')) return handleInteraction(request, response, url, provider, texts);
  if (await handleWebsite(request, response, url, texts)) return undefined;
  return sendPage(response, 404, messagePage({ texts, title: texts.gone, text: html`<a href="/">${texts.back}</a>` }));
}

async function answer(request, response) {
  try {
    await route(request, response);
  } catch (error) {
    if (response.headersSent) return response.destroy();
    if (error instanceof BadRequest) return sendOutcome(response, 400, 'invalid', error.message);
    if (error instanceof FhirFailure || error instanceof TypeError || error.name === 'TimeoutError') {
      if (error instanceof TypeError && !error.cause) console.error(`sandbox EHR: ${error.stack}`);
      const texts = textsFor(request);
      return sendPage(response, 503, messagePage({ texts, title: texts.away, text: texts.awayText }), { 'retry-after': '5' });
    }
    console.error(`sandbox EHR: ${error.stack}`);
    return sendOutcome(response, 500, 'exception', 'internal error');
  }
  return undefined;
}

const server = createServer({ cert: configuration.tlsCert, key: configuration.tlsKey, minVersion: 'TLSv1.2' }, answer);
server.listen(configuration.port, configuration.host, () => {
  console.log(`sandbox EHR at ${configuration.origin}`);
  seed();
});
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    server.close(() => process.exit(0));
    server.closeAllConnections();
  });
}
