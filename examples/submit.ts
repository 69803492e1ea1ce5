// Submits a CSV file of recipients as a campaign over the HTTP API and follows the campaign until it is completed.
//
//   PREGON_API_KEY=... node submit.js [FILE.csv]
//
// Run it again after any failure: with the same external id it continues where it stopped and sends nothing twice.
// A refused call or a stopped campaign ends the program with a message and exit code 1.
// Needs Node.js 18 or newer, no packages.
import { readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

type Counts = Record<string, number>;
type Rejected = { line: number; code: string; reason: string };
type Uploaded = { accepted: number; rejected_count: number; rejected: Rejected[] };
type Failure = { code: number; title: string; count: number };
type Campaign = {
  state: "draft" | "scheduled" | "running" | "paused" | "completed" | "cancelled";
  reason?: { details: string };
  statistics: { recipients: number; by_state: Counts; funnel: { accepted: number }; failures: Failure[] };
};

const { env } = process;
const url = env.PREGON_SERVER ?? "http://127.0.0.1:8080";
const key = env.PREGON_API_KEY;
const [name, language] = (env.PREGON_TEMPLATE ?? "order_update/es_AR").split("/");
const request = {
  name: "Order update",
  external_id: env.PREGON_EXTERNAL_ID ?? "example-ts",
  template: { name, language },
  lines: [env.PREGON_LINE ?? "3001"],
};
const file = process.argv[2] ?? "examples/customers.csv";

// Calls the API. Retries while the server is unavailable, which is safe: every call here may be repeated.
async function call<T>(method: string, path: string, headers?: Record<string, string>, body?: string): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    const init = { method, headers: { ...headers, Authorization: `Bearer ${key}` }, body };
    const response = await fetch(`${url}/v1/${path}`, init).catch((error) => {
      if (attempt === 4) throw new Error(`${url}: ${error.cause ?? error}`);
    });
    if (response?.ok) return (await response.json()) as T;
    if (response && (attempt === 4 || ![408, 429, 502, 503, 504].includes(response.status))) {
      const isProblem = response.headers.get("Content-Type") === "application/problem+json";
      const problem = isProblem && ((await response.json()) as { title: string; detail: string });
      throw new Error(problem ? `${problem.title}: ${problem.detail}` : `HTTP ${response.status}`);
    }
    await sleep(1000 * Number(response?.headers.get("Retry-After") ?? attempt));
  }
}

async function main(): Promise<void> {
  if (!key) throw new Error("set PREGON_API_KEY to a key of http.api_keys");
  const json = { "Content-Type": "application/json" };
  const { id } = await call<{ id: string }>("POST", "campaigns", json, JSON.stringify(request));
  console.log(`campaign ${id}`);

  // The Upload-Id lets the server recognize this upload when the program runs again.
  const csv = { "Content-Type": "text/csv", "Upload-Id": "recipients" };
  const uploaded = await call<Uploaded>("POST", `campaigns/${id}/recipients`, csv, await readFile(file, "utf8"));
  console.log(`${uploaded.accepted} recipients accepted, ${uploaded.rejected_count} rejected`);
  for (const { line, code, reason } of uploaded.rejected) console.log(`  line ${line}: ${code}: ${reason}`);

  let campaign = await call<Campaign>("POST", `campaigns/${id}/launch`);
  for (;;) {
    const { by_state, funnel, recipients } = campaign.statistics;
    const states = Object.entries(by_state).flatMap(([state, n]) => (n > 0 ? `${n} ${state}` : []));
    console.log(`${campaign.state}: ${funnel.accepted} of ${recipients} accepted by Meta (${states.join(", ")})`);
    if (campaign.state !== "scheduled" && campaign.state !== "running") break;
    await sleep(1000);
    campaign = await call<Campaign>("GET", `campaigns/${id}`);
  }

  // Statuses (sent, delivered, read) keep arriving after this: ask again later for the final counts.
  for (const { code, title, count } of campaign.statistics.failures) console.log(`  ${count}: ${title} (code ${code})`);
  const why = campaign.reason?.details ?? "by request";
  if (campaign.state !== "completed") throw new Error(`the campaign is ${campaign.state}: ${why}`);
}

main().catch((error: Error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
});
