// Making elements. Text is only ever put in as text: nothing that a model writes becomes markup.

/** Make an element: `make("p", {class: "soft"}, "text", child)`. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

let timer;

/** Tell the user something for a few seconds. */
export function toast(text) {
  const place = byId("toast");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => place.classList.remove("shown"), 5000);
}

/** Seconds in words: `4.2 s`, `3:07`, `2:03:07`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const whole = Math.floor(seconds);
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (n) => String(n).padStart(2, "0");
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export const number = (value) => Math.round(value).toLocaleString("en");

/** A value as a person reads it: text as it is, everything else as JSON. */
export function readable(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

const KINDS = { success: "success", queued: "idle", cancelled: "idle", paused: "wait", running: "busy" };

/** The class that colours a status. */
export function kindOf(run) {
  if (run.pending_approvals && run.ended_at === null) return "wait";
  return KINDS[run.status] ?? "failed";
}

/** A status in words; of a run at work, what it is doing. */
export function stateOf(run) {
  if (run.pending_approvals && run.ended_at === null) return "waits for you";
  if (run.status === "running") return run.activity || "running";
  return run.status.replaceAll("_", " ");
}
