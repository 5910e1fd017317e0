/** The EHR's own pages. */

import { readFileSync } from 'node:fs';
import { chartOf, findPatients } from './chart.mjs';
import { configuration } from './configuration.mjs';
import { readResource } from './fhir_upstream.mjs';
import { readForm, redirect } from './http_answers.mjs';
import { newLaunch } from './launch_contexts.mjs';
import { sendPage } from './markup.mjs';
import { appPage, chartPage, messagePage, patientListPage, signInPage } from './pages.mjs';
import { PRACTITIONERS, practitioner } from './practitioners.mjs';
import { signedIn, signIn } from './users.mjs';

const STYLE = readFileSync(new URL('./ehr.css', import.meta.url));
const CHART = /^\/patients\/([A-Za-z0-9\-.]{1,64})(\/launch)?$/;

function fromOwnPage(request) {
  const site = request.headers['sec-fetch-site'] ?? 'same-origin';
  const origin = request.headers.origin ?? 'null';
  return site === 'same-origin' && (origin === 'null' || origin === configuration.origin);
}

/** Answer a request for a page; false if there is no such page. */
export async function handleWebsite(request, response, url, texts) {
  const { pathname } = url;
  if (request.method === 'GET' && pathname === '/ehr.css') {
    response.writeHead(200, { 'content-type': 'text/css; charset=utf-8', 'cache-control': 'public, max-age=300' });
    response.end(STYLE);
    return true;
  }
  if (pathname === '/favicon.ico') {
    response.writeHead(204, { 'cache-control': 'public, max-age=86400' });
    response.end();
    return true;
  }
  if (request.method === 'GET' && pathname === '/') return patientList(request, response, url, texts);
  if (pathname === '/sign-in') return changeUser(request, response, texts);
  const match = CHART.exec(pathname);
  if (!match) return false;
  const [, id, launching] = match;
  const user = signedIn(request);
  if (!user) return redirect(response, '/') ?? true;
  const patient = await readResource('Patient', id);
  if (!patient) {
    sendPage(response, 404, messagePage({ texts, title: texts.gone, text: texts.none }));
    return true;
  }
  if (request.method === 'POST' && launching && fromOwnPage(request)) {
    const launch = newLaunch({ patient: id, need_patient_banner: false });
    sendPage(response, 200, appPage({ texts, user, patient, launch }));
    return true;
  }
  sendPage(response, 200, chartPage({ texts, user, patient, ...await chartOf(id) }));
  return true;
}

/** The first visit signs the first user in: this is a sandbox. */
async function patientList(request, response, url, texts) {
  const known = signedIn(request);
  const headers = known ? {} : signIn(PRACTITIONERS[0].id);
  const query = (url.searchParams.get('q') ?? '').trim().slice(0, 100);
  const patients = await findPatients(query);
  sendPage(response, 200, patientListPage({ texts, user: known ?? PRACTITIONERS[0], patients, query }), headers);
  return true;
}

async function changeUser(request, response, texts) {
  const chosen = request.method === 'POST' && fromOwnPage(request) ? practitioner((await readForm(request)).get('user')) : undefined;
  if (chosen) redirect(response, '/', signIn(chosen.id));
  else sendPage(response, 200, signInPage({ texts, action: '/sign-in' }));
  return true;
}
