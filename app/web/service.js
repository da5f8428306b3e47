// The service's own HTTP interface, as any other client uses it.

import { t } from "./words.js";

const KEY = "goodpart.key";

/** What the service refused, in its own words. */
export class Problem extends Error {
  constructor(status, detail) {
    super(status === 401 || status === 403 ? `${detail} (${t("key")})` : detail);
    this.status = status;
  }
}

/** The API key of this tab; gone with it. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** One request; raises Problem. */
async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  const authorization = key.get() ? { Authorization: `Bearer ${key.get()}` } : {};
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

/** Bytes from the service, null where it does not keep them. */
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
  return (await request(path, { method, body, headers })).json();
}

/** Post an image; what the service says of it. */
export async function post(path, image) {
  const type = image.type.startsWith("image/") ? image.type : "image/unknown";
  return (await request(path, { method: "POST", body: image, headers: { "Content-Type": type } })).json();
}

/** The path of a product, and what lies under it. */
export const under = (product, rest = "") => `/v1/products/${encodeURIComponent(product)}${rest}`;

/** Each inspection as it is made, for ever: where the service is away, it is asked again. EventSource sends no key. */
export async function* inspections({ pause_ms = 2000 } = {}) {
  for (;;) {
    try {
      const { body } = await request("/v1/inspections/live");
      yield* messages(body.pipeThrough(new TextDecoderStream()));
    } catch {
      // asked again
    }
    await new Promise((resolve) => setTimeout(resolve, pause_ms));
  }
}

/** The data of server-sent events. */
async function* messages(stream) {
  let rest = "";
  for await (const piece of stream) {
    const events = (rest + piece).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.split("\n").find((line) => line.startsWith("data: "));
      if (data !== undefined) yield JSON.parse(data.slice("data: ".length));
    }
  }
}
