/** HTML that escapes by itself, and the frame of every page. */

import { configuration } from './configuration.mjs';

const ESCAPES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };

class Markup {
  constructor(text) {
    this.text = text;
  }
}

function text(value) {
  if (value instanceof Markup) return value.text;
  if (Array.isArray(value)) return value.map(text).join('');
  if (value === undefined || value === null || value === false) return '';
  return String(value).replace(/[&<>"']/g, (char) => ESCAPES[char]);
}

/** Template tag: values are escaped, pieces of markup are not. */
export function html(strings, ...values) {
  return new Markup(strings.reduce((result, part, index) => result + text(values[index - 1]) + part));
}

const POLICY = [
  "default-src 'none'", "style-src 'self'", "img-src 'self'", "base-uri 'none'",
  // a form of a sign-in ends, over redirects, at the app
  `form-action 'self' ${configuration.appBase}`,
  `frame-src 'self' ${configuration.appBase}`, "frame-ancestors 'self'",
].join('; ');

export function pageHeaders(extra = {}) {
  return {
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': POLICY,
    'cache-control': 'no-store',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    vary: 'Accept-Language',
    ...extra,
  };
}

export function sendPage(response, status, page, headers) {
  response.writeHead(status, pageHeaders(headers));
  response.end(page.text);
}

export function layout({ texts, title, user, main, wide = false, bare = false }) {
  return new Markup(`<!doctype html>\n${html`<html lang="${texts.language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title} · ${texts.hospital}</title>
<link rel="stylesheet" href="/ehr.css">
</head>
<body class="${wide ? 'wide' : ''}">
${bare ? '' : html`<header class="top">
<a class="brand" href="/"><span class="mark" aria-hidden="true"></span><span>${texts.hospital}<small>${texts.product}</small></span></a>
${user ? html`<p class="user"><span>${texts.signedIn} <strong>${user.name}</strong></span> <a href="/sign-in">${texts.switchUser}</a></p>` : ''}
</header>`}
<main>${main}</main>
${bare ? '' : html`<footer><p>${texts.demo}</p></footer>`}
</body>
</html>`.text}`);
}
