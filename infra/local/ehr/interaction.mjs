/** The two things that an authorization may have to ask: who is signed in, and, in a standalone launch, which patient. */

import { findPatients } from './chart.mjs';
import { readForm } from './http_answers.mjs';
import { sendPage } from './markup.mjs';
import { choosePatientPage, messagePage, signInPage } from './pages.mjs';
import { practitioner } from './practitioners.mjs';
import { readResource } from './fhir_upstream.mjs';
import { signedIn, signIn } from './users.mjs';

export async function handleInteraction(request, response, url, provider, texts) {
  let details;
  try {
    details = await provider.interactionDetails(request, response);
  } catch {
    return sendPage(response, 400, messagePage({ texts, title: texts.refused, text: texts.again }));
  }
  const action = url.pathname;
  const form = request.method === 'POST' ? await readForm(request) : new URLSearchParams();
  if (details.prompt.name === 'login') return login(request, response, provider, texts, action, form);
  if (details.prompt.name === 'select_patient') return selectPatient(request, response, provider, texts, action, form);
  return provider.interactionFinished(request, response, { error: 'access_denied' }, { mergeWithLastSubmission: false });
}

/** Who is signed in to the EHR already is not asked again. */
async function login(request, response, provider, texts, action, form) {
  const chosen = practitioner(form.get('user'));
  const user = signedIn(request) ?? chosen;
  if (!user) return sendPage(response, 200, signInPage({ texts, action }));
  if (!signedIn(request)) response.setHeader('set-cookie', signIn(user.id)['set-cookie']);
  return provider.interactionFinished(request, response, { login: { accountId: user.id } }, { mergeWithLastSubmission: true });
}

async function selectPatient(request, response, provider, texts, action, form) {
  const id = form.get('patient');
  if (id && await readResource('Patient', id)) {
    return provider.interactionFinished(request, response, { select_patient: { patient: id } }, { mergeWithLastSubmission: true });
  }
  return sendPage(response, 200, choosePatientPage({ texts, action, patients: await findPatients('') }));
}
