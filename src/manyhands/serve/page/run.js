// One run, as its events tell it: steps with the model's words, code, calls and what came of them.

import { Refusal, follow, get, post } from "./api.js";
import { duration, kindOf, make, number, readable, stateOf, toast } from "./dom.js";
import { python } from "./python.js";
import { RequestCard } from "./request.js";

// People do not read more, and browsers draw no more in good time.
const LONGEST = 100_000;
const FINAL = "final_answer";

const cut = (text) => (text.length > LONGEST ? `${text.slice(0, LONGEST)}\n… ${number(text.length - LONGEST)} characters more` : text);
const tokens = (usage) => (usage ? `${number(usage.input_tokens)} in, ${number(usage.output_tokens)} out` : "");
const aside = (...parts) => make("span", { class: "soft" }, parts.filter(Boolean).join(" · "));

/** The part of the page that belongs to one run of the server, or to one that it has started. */
class Track {
  constructor(element) {
    this.element = element;
    this.step = null;
    this.calls = new Map();
  }

  /** The step that events without one of their own belong to. */
  place(number) {
    const wanted = number ?? this.step?.number ?? 0;
    if (this.step === null || this.step.number !== wanted) this.step = this.openStep(wanted);
    return this.step;
  }

  openStep(number) {
    this.step?.element.classList.remove("live");
    const heading = make("h3", {}, number > 0 ? `Step ${number}` : "Before the first step");
    const element = make("article", { class: "step live" }, heading);
    this.element.append(element);
    return { number, element, heading, say: null, thinking: null };
  }
}

export class RunView {
  /**
   * @param element where to draw
   * @param id the run
   * @param onChange called when the run has become another: paused, ended
   */
  constructor(element, id, onChange) {
    this.id = id;
    this.element = element;
    this.onChange = onChange;
    this.stop = new AbortController();
    this.requests = new Map();
    this.tracks = new Map();
    this.pieces = new Map();
    this.frame = 0;
  }

  async open() {
    try {
      this.run = await get(`v1/runs/${this.id}`, this.stop.signal);
    } catch (error) {
      if (!this.stop.signal.aborted) this.fail(error);
      return;
    }
    if (this.stop.signal.aborted) return;
    this.drawHead();
    await this.follow();
  }

  fail(error) {
    this.element.replaceChildren(make("p", { class: "empty problem" }, error.message));
  }

  close() {
    this.stop.abort();
    cancelAnimationFrame(this.frame);
  }

  async follow() {
    const isOwn = (event) => event.run_id === this.id;
    try {
      await follow(`v1/runs/${this.id}/events`, {
        onEvent: (name, event) => this.take(name, event),
        onState: (connected) => this.offline?.toggleAttribute("hidden", connected),
        signal: this.stop.signal,
        endsWith: { name: "run_end", is: isOwn },
      });
    } catch (error) {
      this.note(error.message, "bad");
    }
    if (!this.stop.signal.aborted) await this.finish();
  }

  /** What only the run's record tells: how it ended when no event of its own said so. */
  async finish() {
    try {
      this.refresh(await get(`v1/runs/${this.id}`, this.stop.signal));
    } catch { return; }
    if (this.run.ended_at !== null && !this.told) this.end({ status: this.run.status, error: this.run.error });
    this.onChange();
  }

  // --- The head -------------------------------------------------------------------------------

  drawHead() {
    this.state = make("span", { class: "state" });
    this.about = make("span", { class: "soft" });
    this.pauseButton = make("button", { type: "button", onclick: () => this.pause() }, "Pause (p)");
    this.cancelButton = make("button", { type: "button", onclick: () => this.cancel() }, "Cancel (x)");
    this.words = make("input", { type: "text", placeholder: "Tell the run something; it reads it at its next step (i)", "aria-label": "Tell the run something" });
    this.tellForm = make("form", { class: "tell", onsubmit: (event) => this.tell(event) }, this.words, make("button", {}, "Tell"));
    this.limitsForm = this.makeLimits();
    this.limitsButton = make("button", { type: "button", "aria-expanded": "false", onclick: () => this.openLimits() }, "Limits (l)");
    this.offline = make("p", { class: "problem", hidden: true }, "The connection is gone; trying again …");
    const buttons = make("div", { class: "buttons" }, this.limitsButton, this.pauseButton, this.cancelButton);
    const head = make("div", { class: "head" }, make("p", { class: "task" }, this.run.task), make("div", { class: "line" }, this.state, this.about, buttons), this.limitsForm, this.tellForm, this.offline);
    this.body = make("div", { class: "body" });
    this.element.replaceChildren(head, this.body);
    this.element.scrollTop = 0;
    this.tracks.set(this.id, new Track(this.body));
    this.refresh(this.run);
  }

  /** Show what the list has learned of the run. */
  refresh(run) {
    this.run = run;
    if (!this.state) return;
    this.state.className = `state ${kindOf(run)}`;
    this.state.textContent = stateOf(run);
    const ended = run.ended_at !== null;
    const seconds = (run.ended_at ?? Date.now() / 1000) - (run.started_at ?? run.created_at);
    this.about.textContent = [run.agent, run.tenant, duration(Math.max(0, seconds)), tokens(run.token_usage), run.id.slice(0, 8)].filter(Boolean).join(" · ");
    for (const one of [this.pauseButton, this.cancelButton, this.limitsButton, this.tellForm]) one.hidden = ended;
    if (ended) this.limitsForm.hidden = true;
    this.pauseButton.textContent = run.status === "paused" ? "Resume (p)" : "Pause (p)";
  }

  /** Ask the server to do something with the run; say what will come of it, or why not. */
  async act(path, body, done) {
    try {
      await post(`v1/runs/${this.id}/${path}`, body);
      toast(done);
      this.onChange();
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      toast(error.message);
    }
  }

  cancel = () => this.act("cancel", { reason: "cancelled on the page" }, "Cancelled.");

  pause() {
    if (this.run?.status === "paused") return this.act("resume", undefined, "It goes on.");
    return this.act("pause", undefined, "It pauses before its next step.");
  }

  makeLimits() {
    const field = (name, text, most) => make("label", {}, `${text} `, make("input", { type: "number", name, min: "1", max: most }));
    return make(
      "form",
      { class: "limits line", hidden: true, onsubmit: (event) => this.setLimits(event) },
      field("max_steps", "Most steps", "10000"),
      field("timeout", "Most seconds since its start", "86400"),
      make("button", {}, "Set"),
    );
  }

  openLimits() {
    this.limitsForm.hidden = !this.limitsForm.hidden;
    this.limitsButton.setAttribute("aria-expanded", String(!this.limitsForm.hidden));
    if (!this.limitsForm.hidden) this.limitsForm.elements[0].focus();
  }

  async setLimits(event) {
    event.preventDefault();
    const given = [...new FormData(this.limitsForm)].filter(([, value]) => value !== "");
    if (!given.length) return;
    const limits = Object.fromEntries(given.map(([name, value]) => [name, Number(value)]));
    this.openLimits();
    await this.act("limits", limits, "The limits are changed.");
  }

  async tell(event) {
    event.preventDefault();
    const text = this.words.value.trim();
    if (!text) return;
    this.words.value = "";
    await this.act("inject", { text }, "The run reads it at its next step.");
  }

  /** The first request that waits for an answer. */
  get waiting() {
    return [...this.requests.values()].find((card) => !card.closed);
  }

  // --- Events ---------------------------------------------------------------------------------

  take(name, event) {
    const taker = TAKERS[name];
    if (!taker || !this.body) return;
    const stuck = this.element.scrollHeight - this.element.scrollTop - this.element.clientHeight < 80;
    taker.call(this, event, this.track(event));
    if (stuck) this.follows();
  }

  /** Keep the end in view, once per frame. */
  follows() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => { this.element.scrollTop = this.element.scrollHeight; });
  }

  track(event) {
    const known = this.tracks.get(event.run_id);
    if (known) return known;
    const parent = this.tracks.get(event.parent_id) ?? this.tracks.get(this.id);
    const heading = make("h3", {}, event.agent ?? "Sub-agent");
    const element = make("section", { class: "child" }, heading);
    parent.place().element.append(element);
    const track = new Track(element);
    track.heading = heading;
    this.tracks.set(event.run_id, track);
    return track;
  }

  note(text, kind = "", track = this.tracks.get(this.id)) {
    track.element.append(make("p", { class: `note ${kind}` }, text));
  }

  /** Add a piece of the model's reply; what comes within one frame is drawn at once. */
  delta(event, track) {
    const step = track.place(event.step);
    if (event.restart) this.forget(step);
    for (const [field, kind] of [["reasoning", "thinking"], ["content", "say"]]) {
      if (!event[field]) continue;
      step[kind] ??= step.element.appendChild(make("p", { class: `${kind} typing` }));
      this.pieces.set(step[kind], (this.pieces.get(step[kind]) ?? "") + event[field]);
    }
    this.drawing ??= requestAnimationFrame(() => this.drawPieces());
  }

  /** The stream broke: the reply begins anew. */
  forget(step) {
    for (const kind of ["say", "thinking"]) {
      this.pieces.delete(step[kind]);
      step[kind]?.remove();
      step[kind] = null;
    }
  }

  drawPieces() {
    cancelAnimationFrame(this.drawing);
    this.drawing = null;
    for (const [element, text] of this.pieces) {
      if (element.textContent.length < LONGEST) element.append(text);
    }
    this.pieces.clear();
  }

  /** The reply is whole: put the marks of typing away. */
  settle(step) {
    this.drawPieces();
    for (const element of [step.say, step.thinking]) element?.classList.remove("typing");
  }

  code({ step: number, code }, track) {
    const step = track.place(number);
    this.settle(step);
    if (step.say) step.say.textContent = withoutCode(step.say.textContent, code);
    if (step.say?.textContent === "") step.say.remove();
    step.element.append(python(code));
  }

  toolCall(event, track) {
    if (event.tool === FINAL) return; // the answer has a place of its own
    const step = track.place(event.step);
    this.settle(step);
    const given = make("span", { class: "given" }, cut(oneLine(event.arguments)));
    const line = make("div", { class: "call" }, make("b", {}, event.tool), "(", given, ")");
    track.calls.set(event.id, line);
    step.element.append(line);
  }

  toolOutput(event, track) {
    if (event.tool === FINAL && event.error === null) return;
    const line = track.calls.get(event.id) ?? track.place(event.step).element.appendChild(make("div", { class: "call" }, make("b", {}, event.tool)));
    track.calls.delete(event.id);
    const failed = event.error !== null;
    const text = failed ? `${event.error.type}: ${event.error.message}` : readable(event.output);
    line.append(make("div", { class: failed ? "gave problem" : "gave" }, `→ ${cut(text ?? "")}`));
  }

  stepEnd(event, track) {
    const step = track.place(event.step);
    this.settle(step);
    step.element.classList.remove("live");
    step.heading.append(aside(duration(event.seconds), tokens(event.token_usage)));
    if (event.error) step.element.append(make("p", { class: "note bad" }, `${event.error.type}: ${event.error.message}`));
  }

  plan(event, track) {
    const step = track.step;
    if (step?.element.classList.contains("live") && step.say && !step.closed) step.element.remove();
    track.step = null;
    const heading = make("h3", {}, "Plan", aside(duration(event.seconds), tokens(event.token_usage)));
    track.element.append(make("section", { class: "plan" }, heading, make("p", {}, cut(event.text))));
  }

  wait(event, track) {
    track.waits ??= new Map();
    const key = `${event.for} ${event.name}`;
    if (event.state === "end") {
      track.waits.get(key)?.remove();
      track.waits.delete(key);
    } else if (!track.waits.has(key)) {
      const line = make("p", { class: "wait-line" }, `Waits for ${event.for}${event.name ? ` (${event.name})` : ""} …`);
      (track.step?.element ?? track.element).append(line);
      track.waits.set(key, line);
    }
  }

  request(event, track) {
    const card = new RequestCard(this.id, event);
    this.requests.set(event.id, card);
    track.place().element.append(card.element);
  }

  end(event) {
    this.told = true;
    this.drawPieces();
    for (const track of this.tracks.values()) track.step?.element.classList.remove("live");
    if (event.status !== "success") {
      const why = event.error ? `: ${event.error.message || event.error.type}` : "";
      this.note(`${event.status.replaceAll("_", " ")}${why}`, event.status === "cancelled" ? "" : "bad");
    }
  }
}

const TAKERS = {
  run_start(event, track) {
    if (track.heading) track.heading.replaceChildren(event.agent, make("span", { class: "soft" }, event.task.slice(0, 120)));
  },
  run_end(event, track) {
    if (event.run_id === this.id) this.end(event);
    else track.step?.element.classList.remove("live");
  },
  step_start(event, track) { track.place(event.step); },
  delta(event, track) { this.delta(event, track); },
  code(event, track) { this.code(event, track); },
  tool_call(event, track) { this.toolCall(event, track); },
  tool_output(event, track) { this.toolOutput(event, track); },
  observations(event, track) { track.place(event.step).element.append(make("pre", {}, cut(event.text))); },
  plan(event, track) { this.plan(event, track); },
  step_end(event, track) { this.stepEnd(event, track); },
  final_answer(event, track) {
    const answer = make("section", { class: "answer" }, make("h3", {}, "Answer"), make("p", {}, cut(readable(event.output) ?? "")));
    track.element.append(answer);
  },
  approval_request(event, track) { this.request(event, track); },
  approval_end(event) { this.requests.get(event.id)?.close(event); },
  wait(event, track) { this.wait(event, track); },
  retry(event, track) { this.note(`Asks again (${event.for}, attempt ${event.attempt}): ${event.error?.message ?? ""}`, "", track); },
  paused(event, track) { this.note("Paused: it goes on when it is resumed.", "", track); },
  resumed(event, track) { this.note("Goes on.", "", track); },
  injected(event, track) { this.note(`You said: ${event.text}`, "", track); },
  limits(event, track) { this.note(`New limits: ${oneLine(event.limits)}`, "", track); },
  gap(event) { this.note(`${number(event.missed)} events are no longer kept by the server.`); },
};

function oneLine(value) {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return JSON.stringify(value) ?? "";
  return Object.entries(value).map(([name, one]) => `${name}=${JSON.stringify(one)}`).join(", ");
}

/** The model's words without the code that is shown below them. */
function withoutCode(text, code) {
  const at = text.indexOf(code.trim().split("\n", 1)[0]);
  if (at < 0) return text.trim();
  return text.slice(0, at).replace(/(<code>|```\w*)\s*$/, "").trim();
}
