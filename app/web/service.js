// The service's own HTTP interface, as any other client uses it.

import { t } from "./words.js";

const LONGEST_MS = 20_000;
// The service sends a sign of life every second.
const LONGEST_SILENCE_MS = 5_000;
const PRINTABLE = /^[\x21-\x7e]*$/;

const KEY = "goodpart.key";

let apiKey = keptKey();

/** What the service refused, in its own words; status 0 where it does not answer. */
export class Problem extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** The key of before, where this tab has kept one. */
function keptKey() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

/** Take the API key; this tab keeps it. Raises Problem where it can be none. */
export function useKey(typed) {
  if (!PRINTABLE.test(typed)) throw new Problem(0, t("keyIsNone"));
  apiKey = typed;
  try {
    sessionStorage.setItem(KEY, typed);
  } catch {
    // then it is asked for again after a reload
  }
}

/** One request; raises Problem. */
async function request(path, { method = "GET", body, headers = {}, signal = AbortSignal.timeout(LONGEST_MS) } = {}) {
  const authorization = apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
  let response;
  try {
    response = await fetch(path, { method, body, signal, headers: { ...authorization, ...headers } });
  } catch {
    throw new Problem(0, t("away"));
  }
  if (!response.ok && !(path === "/readyz" && response.status === 503)) {
    const problem = await response.json().catch(() => ({}));
    throw new Problem(response.status, problem.detail ?? response.statusText);
  }
  return response;
}

/** JSON from the service. */
export const get = async (path) => (await request(path)).json();

/** Text from the service. */
export const text = async (path) => (await request(path)).text();

/** Bytes from the service, null where it does not have them. */
export async function picture(path) {
  try {
    return await (await request(path)).blob();
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

/** Let the service do something; what it says then. */
export async function send(method, path, members) {
  const body = members === undefined ? undefined : JSON.stringify(members);
  const headers = members === undefined ? {} : { "Content-Type": "application/json" };
  return (await request(path, { method, body, headers, signal: null })).json();
}

/** Post an image; what the service says of it. */
export async function post(path, image) {
  const type = image.type.startsWith("image/") ? image.type : "image/unknown";
  return (await request(path, { method: "POST", body: image, headers: { "Content-Type": type } })).json();
}

/** The path of a product, and what lies under it. */
export const under = (product, rest = "") => `/v1/products/${encodeURIComponent(product)}${rest}`;

/** Each inspection as it is made, until `signal` or a silence ends it; `onOpen` is called first. EventSource sends no key. */
export async function* inspections({ signal, onOpen }) {
  const silence = new AbortController();
  const { body } = await request("/v1/inspections/live", { signal: AbortSignal.any([signal, silence.signal]) });
  onOpen();
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const waiting = setTimeout(() => silence.abort(), LONGEST_SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(waiting));
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      yield* events.map(dataOf).filter((data) => data !== undefined);
    }
  } finally {
    await reader.cancel().catch(() => {}); // it is over in any case
  }
}

/** What a server-sent event carries, if it carries anything. */
function dataOf(event) {
  const line = event.split("\n").find((one) => one.startsWith("data: "));
  return line && JSON.parse(line.slice("data: ".length));
}
