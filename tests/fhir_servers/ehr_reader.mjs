// A foreign EHR that reads with npm fhir-kit-client: prints what each documented search finds, page after page, as JSON.
//
// Usage: FHIR_BASE, FHIR_TOKEN; stdin: [[resource type, {parameter: value}], ...]
import { Client } from 'fhir-kit-client';
import { readFileSync } from 'node:fs';

const client = new Client({ baseUrl: process.env.FHIR_BASE, bearerToken: process.env.FHIR_TOKEN });
const answers = [];
for (const [resourceType, searchParams] of JSON.parse(readFileSync(0, 'utf8'))) {
  const found = [];
  let bundle = await client.search({ resourceType, searchParams });
  while (bundle) {
    found.push(...(bundle.entry ?? []).map((entry) => `${entry.resource.resourceType}/${entry.resource.id}`));
    bundle = bundle.link?.some((link) => link.relation === 'next') ? await client.nextPage({ bundle }) : undefined;
  }
  answers.push(found);
}
process.stdout.write(JSON.stringify(answers));
