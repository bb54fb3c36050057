/** The service, over HTTP: what it is, and variations as a stream of events. */

/** What went wrong, in the service's own words where it has said any (RFC 9457). */
export class Problem extends Error {
  constructor({ title, detail, status = 0, request_id = "", retry_after = null }) {
    super(detail);
    Object.assign(this, { title, detail, status, requestId: request_id, retryAfter: retry_after });
  }
}

const unreachable = () =>
  new Problem({
    title: "The service cannot be reached",
    detail: "It has ended, or the connection to it has. Nothing was lost but this request.",
  });

/** The service's name, model, limits and links. */
export async function about() {
  const response = await fetch("./", { headers: { accept: "application/json" } });
  if (!response.ok) throw await problemOf(response);
  return response.json();
}

/** Whether it is ready, and if not why: `{status, reason, fraction}`. */
export async function readiness(url) {
  return (await fetch(url)).json();
}

/**
 * Post a form; gives `{event, data}` as they come, the last one being `done`.
 *
 * Throws a `Problem`, and an `AbortError` when `signal` has cancelled it.
 */
export async function* vary(url, form, key, signal) {
  const headers = { accept: "text/event-stream" };
  if (key) headers.authorization = `Bearer ${key}`;
  let ended = false;
  try {
    const response = await fetch(url, { method: "POST", body: form, headers, signal });
    if (!response.ok) throw await problemOf(response);
    for await (const { event, data } of events(response.body)) {
      if (event === "error") throw new Problem(data);
      ended = event === "done";
      yield { event, data };
    }
  } catch (error) {
    if (error instanceof Problem || signal.aborted) throw error;
    throw unreachable();
  }
  if (!ended) throw unreachable();
}

async function problemOf(response) {
  try {
    return new Problem(await response.json());
  } catch {
    return new Problem({
      title: `The answer was ${response.status} ${response.statusText}`,
      detail: "Something in front of the service may have given it.",
      status: response.status,
    });
  }
}

/** Server-sent events, whose data is JSON here; comments keep the connection awake. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = { event: "message", data: "" };
      for (const line of block.split("\n")) {
        const [, name, text] = /^(\w+): ?(.*)$/.exec(line) ?? [];
        if (name === "data") fields.data += text;
        else if (name) fields[name] = text;
      }
      if (fields.data) yield { event: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
