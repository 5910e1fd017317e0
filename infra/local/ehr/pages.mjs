/** Pages of the EHR: patients, a patient's chart with the app in it, and the two questions of a sign-in. */

import { configuration } from './configuration.mjs';
import { html, layout } from './markup.mjs';
import { PRACTITIONERS } from './practitioners.mjs';

export function patientName(patient) {
  const [name] = patient.name ?? [];
  if (!name) return '—';
  return name.text ?? [[name.family, (name.given ?? []).join(' ')].filter(Boolean).join(', ')].join('');
}

function patientNumber(patient) {
  return patient.identifier?.[0]?.value ?? '—';
}

function sex(patient, texts) {
  return patient.gender ? texts[patient.gender] ?? patient.gender : '—';
}

function patientTable(patients, texts, action) {
  return html`<div class="list"><table>
<thead><tr><th scope="col">${texts.name}</th><th scope="col">${texts.number}</th><th scope="col">${texts.birthDate}</th><th scope="col">${texts.sex}</th><th></th></tr></thead>
<tbody>${patients.map((patient) => html`<tr><td>${patientName(patient)}</td><td class="number">${patientNumber(patient)}</td><td class="number">${patient.birthDate ?? '—'}</td><td>${sex(patient, texts)}</td><td>${action(patient)}</td></tr>
`)}</tbody>
</table></div>`;
}

export function patientListPage({ texts, user, patients, query }) {
  const link = (patient) => html`<a href="/patients/${patient.id}" aria-label="${texts.open}: ${patientName(patient)}">${texts.open}</a>`;
  const empty = html`<p class="card">${query ? texts.none : texts.nobody}</p>`;
  return layout({
    texts,
    user,
    title: texts.patients,
    main: html`<h1>${texts.patients}</h1>
<form class="search" role="search"><input type="search" name="q" value="${query}" aria-label="${texts.search}" placeholder="${texts.search}"><button>${texts.find}</button></form>
${patients.length ? patientTable(patients, texts, link) : empty}`,
  });
}

function chartHeader(patient, texts, actions) {
  return html`<section class="chart">
<h1>${patientName(patient)}</h1>
<dl><div><dt>${texts.birthDate}</dt><dd>${patient.birthDate ?? '—'}</dd></div><div><dt>${texts.sex}</dt><dd>${sex(patient, texts)}</dd></div><div><dt>${texts.number}</dt><dd>${patientNumber(patient)}</dd></div></dl>
<div class="actions">${actions}</div>
</section>`;
}

function items(resources, texts, describe) {
  if (!resources.length) return html`<p class="soft">${texts.noStudies}</p>`;
  return html`<ul>${resources.map((resource) => {
    const [what, when] = describe(resource);
    return html`<li><span>${what}</span><span class="soft">${when}</span></li>`;
  })}</ul>`;
}

const conceptText = (concept) => concept?.text ?? concept?.coding?.[0]?.display ?? concept?.coding?.[0]?.code;

export function chartPage({ texts, user, patient, studies, reports }) {
  const actions = html`<a class="button plain" href="/">${texts.back}</a>
<form method="post" action="/patients/${patient.id}/launch"><button id="launch">${texts.launch}</button></form>`;
  const study = (item) => [
    item.description ?? [item.modality?.map(({ code }) => code).join(' '), conceptText(item.procedureCode?.[0])].filter(Boolean).join(' · ') ?? '—',
    item.started?.slice(0, 10) ?? '',
  ];
  const report = (item) => [conceptText(item.code) ?? '—', `${item.status} · ${item.effectiveDateTime?.slice(0, 10) ?? ''}`];
  return layout({
    texts,
    user,
    wide: true,
    title: patientName(patient),
    main: html`${chartHeader(patient, texts, actions)}
<div class="columns"><section class="card"><h2>${texts.studies}</h2>${items(studies, texts, study)}</section>
<section class="card"><h2>${texts.reports}</h2>${items(reports, texts, report)}</section></div>`,
  });
}

export function appPage({ texts, user, patient, launch }) {
  const source = `${configuration.appBase}/launch?${new URLSearchParams({ iss: configuration.fhirBase, launch })}`;
  const actions = html`<a class="button plain" href="/patients/${patient.id}">${texts.close}</a>`;
  return layout({
    texts,
    user,
    wide: true,
    title: `${texts.app} · ${patientName(patient)}`,
    main: html`${chartHeader(patient, texts, actions)}
<iframe id="app" title="${texts.app}" src="${source}" sandbox="allow-scripts allow-forms allow-same-origin allow-popups allow-popups-to-escape-sandbox allow-downloads"></iframe>`,
  });
}

export function signInPage({ texts, action, next }) {
  const one = (person) => html`<button name="user" value="${person.id}" class="plain">${person.name}<small>${texts.language === 'fr' ? person.role.fr : person.role.display}</small></button>`;
  return layout({
    texts,
    title: texts.signIn,
    main: html`<h1>${texts.signIn}</h1>
<form method="post" action="${action}" class="people">${next ? html`<input type="hidden" name="next" value="${next}">` : ''}${PRACTITIONERS.map(one)}</form>`,
  });
}

export function choosePatientPage({ texts, patients, action }) {
  const button = (patient) => html`<form method="post" action="${action}"><button name="patient" value="${patient.id}" class="plain">${texts.choose}</button></form>`;
  return layout({
    texts,
    title: texts.choosePatient,
    main: html`<h1>${texts.choosePatient}</h1><p>${texts.choosePatientText}</p>${patientTable(patients, texts, button)}`,
  });
}

export function messagePage({ texts, title, text, detail }) {
  return layout({
    texts,
    title,
    bare: true,
    main: html`<div class="card"><h1>${title}</h1><p>${text}</p>${detail ? html`<p class="soft">${detail}</p>` : ''}</div>`,
  });
}
