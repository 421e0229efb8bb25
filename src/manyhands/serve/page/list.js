// The list of runs: any number of them, of which only those in view are elements.

import { get } from "./api.js";
import { byId, duration, kindOf, make, number, stateOf } from "./dom.js";

const ROW = 54; // pixels, as in style.css
const SPARE = 8; // rows drawn above and below the view
const MOST = 20_000;
const ID_LETTERS = 6; // as many of an id name a run
const MISSING_AT_ONCE = 20;

const FILTERS = {
  all: () => true,
  active: (run) => run.ended_at === null,
  waiting: (run) => run.ended_at === null && run.pending_approvals > 0,
  failed: (run) => run.ended_at !== null && kindOf(run) === "failed",
  ended: (run) => run.ended_at !== null,
};

export class RunList {
  /** @param onChoose called with the id of the run that the user chooses */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.runs = new Map(); // by id, the oldest first
    this.shown = [];
    this.chosen = null;
    this.drawn = new Map();
    this.view = byId("list");
    this.rows = byId("rows");
    this.view.addEventListener("scroll", () => this.draw(), { passive: true });
    this.view.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(this.view);
    byId("search").addEventListener("input", () => this.sift());
    byId("status").addEventListener("change", () => this.sift());
    setInterval(() => this.draw(), 1000); // ages go on
  }

  // --- What there is ------------------------------------------------------------------------

  /** Load everything the server has, page by page. */
  async load() {
    let after = "";
    const pages = [];
    do {
      const page = await get(`v1/runs?limit=1000${after && `&after=${encodeURIComponent(after)}`}`);
      pages.push(...page.runs);
      after = page.next ?? "";
    } while (after && pages.length < MOST);
    this.take(pages);
  }

  /** Take in what is new: the newest runs, and whatever was at work when last seen. */
  async refresh() {
    const { runs } = await get("v1/runs?limit=200");
    const seen = new Set(runs.map((run) => run.id));
    const open = [...this.runs.values()].filter((run) => run.ended_at === null && !seen.has(run.id));
    if (open.length) {
      const active = (await get("v1/runs?status=active&limit=1000")).runs;
      active.forEach((run) => seen.add(run.id));
      const gone = open.filter((run) => !seen.has(run.id)).slice(0, MISSING_AT_ONCE);
      runs.push(...active, ...(await Promise.all(gone.map((run) => this.again(run)))).filter(Boolean));
    }
    this.take(runs);
  }

  async again(run) {
    try {
      return await get(`v1/runs/${run.id}`);
    } catch {
      this.runs.delete(run.id); // the server has forgotten it
      return null;
    }
  }

  /** Put runs, the newest first, among those known. */
  take(runs) {
    const fresh = [];
    for (const run of runs) {
      if (this.runs.has(run.id)) this.runs.set(run.id, run);
      else fresh.push(run);
    }
    fresh.sort((one, other) => one.created_at - other.created_at).forEach((run) => this.runs.set(run.id, run));
    for (const id of this.runs.keys()) {
      if (this.runs.size <= MOST) break;
      this.runs.delete(id);
    }
    this.sift();
  }

  /** Choose what the filters let through. */
  sift() {
    const wanted = FILTERS[byId("status").value];
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (run) => {
      const text = `${run.task} ${run.agent} ${run.tenant} ${stateOf(run)}`.toLowerCase();
      const named = (word) => word.length >= ID_LETTERS && run.id.startsWith(word);
      return words.every((word) => text.includes(word) || named(word));
    };
    this.shown = [...this.runs.values()].filter((run) => wanted(run) && (!words.length || fits(run))).reverse();
    const of = this.shown.length === this.runs.size ? "" : ` of ${number(this.runs.size)}`;
    byId("count").textContent = `${number(this.shown.length)}${of} ${this.runs.size === 1 ? "run" : "runs"}`;
    this.draw();
  }

  // --- Drawing -----------------------------------------------------------------------------

  draw() {
    this.rows.style.height = `${this.shown.length * ROW}px`;
    const first = Math.max(0, Math.floor(this.view.scrollTop / ROW) - SPARE);
    const last = Math.min(this.shown.length, Math.ceil((this.view.scrollTop + this.view.clientHeight) / ROW) + SPARE);
    const kept = new Map();
    for (let at = first; at < last; at += 1) {
      const run = this.shown[at];
      const row = this.drawn.get(run.id) ?? this.makeRow(run.id);
      this.fill(row, run, at);
      kept.set(run.id, row);
    }
    for (const [id, row] of this.drawn) if (!kept.has(id)) row.remove();
    for (const row of kept.values()) if (!row.parentNode) this.rows.append(row);
    this.drawn = kept;
    const active = this.chosen && kept.has(this.chosen) ? `run-${this.chosen}` : "";
    this.view.setAttribute("aria-activedescendant", active);
  }

  makeRow(id) {
    const choose = () => this.choose(id);
    return make("div", { role: "option", id: `run-${id}`, class: "row", onclick: choose }, make("span"), make("span", { class: "about" }));
  }

  fill(row, run, at) {
    const [task, about] = row.children;
    row.style.top = `${at * ROW}px`;
    row.setAttribute("aria-selected", String(run.id === this.chosen));
    row.setAttribute("aria-posinset", String(at + 1));
    row.setAttribute("aria-setsize", String(this.shown.length));
    if (task.textContent !== run.task) task.textContent = run.task;
    const seconds = (run.ended_at ?? Date.now() / 1000) - (run.started_at ?? run.created_at);
    const tokens = run.token_usage ? `${number(run.token_usage.total_tokens)} tokens` : "";
    const rest = [run.agent, run.step > 0 ? `step ${run.step}` : "", duration(Math.max(0, seconds)), tokens];
    const text = rest.filter(Boolean).join(" · ");
    const [state, kind] = [stateOf(run), kindOf(run)];
    if (about.dataset.text === `${kind}${state}${text}`) return;
    about.dataset.text = `${kind}${state}${text}`;
    about.replaceChildren(make("span", { class: `state ${kind}` }, state), ` · ${text}`);
  }

  // --- Choosing ----------------------------------------------------------------------------

  choose(id) {
    if (id !== this.chosen) {
      this.chosen = id;
      this.onChoose(id);
    }
    this.draw();
  }

  /** Choose the run that stands `by` places further down. */
  move(by) {
    if (!this.shown.length) return;
    const now = this.shown.findIndex((run) => run.id === this.chosen);
    this.chooseAt(Math.min(this.shown.length - 1, Math.max(0, now + by)));
  }

  chooseAt(at) {
    const top = at * ROW;
    const { scrollTop, clientHeight } = this.view;
    if (top < scrollTop) this.view.scrollTop = top;
    else if (top + ROW > scrollTop + clientHeight) this.view.scrollTop = top + ROW - clientHeight;
    this.choose(this.shown[at].id);
  }

  /** Choose the next run that waits for a person. */
  nextWaiting() {
    const waiting = this.shown.filter((run) => FILTERS.waiting(run));
    if (!waiting.length) return;
    const now = waiting.findIndex((run) => run.id === this.chosen);
    this.chooseAt(this.shown.indexOf(waiting[(now + 1) % waiting.length]));
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.view.clientHeight / ROW) - 1);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.move(moves[event.key]);
  }
}
