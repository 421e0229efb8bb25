// The server's API: requests, and streams that come back when the connection breaks.

import { byId } from "./dom.js";

const KEY = "manyhands-token";
const base = new URL("./", document.baseURI);

/** What the server says when it says no. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function adoptTokenOfAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return;
  sessionStorage.setItem(KEY, given);
  history.replaceState(null, "", location.pathname + location.search);
}
adoptTokenOfAddress();

function headers(more = {}) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function answer(path, options) {
  const response = await fetch(new URL(path, base), { ...options, headers: headers(options.headers) });
  if (response.status !== 401) return response;
  await askForToken(Boolean(sessionStorage.getItem(KEY)));
  return answer(path, options);
}

let asking = null;

/** Ask for a token; requests that come meanwhile wait for the same answer. */
function askForToken(wrong) {
  asking ??= new Promise((resolve) => {
    const door = byId("door");
    byId("door-problem").textContent = wrong ? "The server does not know this token." : "";
    door.addEventListener("close", () => {
      sessionStorage.setItem(KEY, byId("token").value.trim());
      byId("token").value = "";
      asking = null;
      resolve();
    }, { once: true });
    door.addEventListener("cancel", (event) => event.preventDefault());
    if (!door.open) door.showModal();
  });
  return asking;
}

async function told(response) {
  if (response.ok) return response.json();
  let message = `${response.status} ${response.statusText}`;
  try {
    const { error } = await response.json();
    const details = (error.details ?? []).map((one) => Object.values(one).join(": "));
    message = [error.message, ...details].join(" ");
  } catch { /* no JSON: the status has to do */ }
  throw new Refusal(response.status, message);
}

export const get = async (path, signal) => told(await answer(path, { signal }));

export async function post(path, body) {
  const options = { method: "POST" };
  if (body !== undefined) {
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  return told(await answer(path, options));
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/**
 * Follow a stream of events until it has ended for good or `signal` says stop.
 *
 * A connection that breaks is made again, after a pause that grows, and goes on behind the last event.
 * `onState(connected)` is told when it breaks and when it is back.
 */
export async function follow(path, { onEvent, onState = () => {}, signal, endsWith = null }) {
  let last = null;
  for (let tries = 0; !signal.aborted; tries += 1) {
    try {
      const more = last === null ? {} : { "Last-Event-ID": last };
      const response = await answer(path, { signal, headers: more });
      if (response.status === 204) return;
      if (!response.ok) await told(response);
      onState(true);
      for await (const event of events(response.body)) {
        tries = 0;
        last = event.id ?? last;
        onEvent(event.name, JSON.parse(event.data));
        if (event.name === endsWith?.name && endsWith.is(JSON.parse(event.data))) return;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && error.status !== 429 && error.status < 500) throw error;
    }
    onState(false);
    await pause(Math.min(10_000, 500 * 2 ** Math.min(tries, 5)));
  }
}

/** Read server-sent events from a body (the HTML standard, section 9.2.6, as far as the server uses it). */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event.data) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(block) {
  const event = { name: "message", data: "", id: null };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon <= 0) continue;
    const value = line.slice(colon + 1).replace(/^ /, "");
    const field = line.slice(0, colon);
    if (field === "event") event.name = value;
    else if (field === "id") event.id = value;
    else if (field === "data") event.data += value;
  }
  return event;
}
