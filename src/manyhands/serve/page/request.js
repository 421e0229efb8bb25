// A request to a person: a call to approve, deny or change, or a question to answer.

import { Refusal, post } from "./api.js";
import { make, readable, toast } from "./dom.js";

const DECIDED = { approved: "Approved", denied: "Denied", changed: "Approved with other arguments", answered: "Answered", cancelled: "No longer asked" };

export class RequestCard {
  /**
   * @param root id of the run that the server knows
   * @param event the `approval_request` event
   */
  constructor(root, event) {
    this.id = event.id;
    this.root = root;
    this.arguments = event.arguments;
    this.closed = false;
    this.buttons = make("div", { class: "line" });
    const question = event.kind === "question";
    const title = question ? `${event.agent} asks` : `${event.agent} wants to call ${event.tool}`;
    this.element = make("section", { class: "request", "aria-label": title }, make("h3", {}, title));
    if (event.reason) this.element.append(make("p", { class: "soft" }, event.reason));
    if (event.expires) this.element.append(make("p", { class: "soft" }, `Decided for you at ${new Date(event.expires * 1000).toLocaleTimeString()}.`));
    this.element.append(make("pre", {}, question ? questionOf(event) : readable(event.arguments)), this.buttons);
    if (question) this.addAnswer();
    else this.addDecisions();
  }

  addAnswer() {
    this.reason = make("input", { type: "text", placeholder: "Your answer", "aria-label": "Your answer" });
    onEnter(this.reason, () => this.decide({ decision: "answer", text: this.reason.value }));
    this.buttons.append(this.reason, button("Answer", "main", () => this.decide({ decision: "answer", text: this.reason.value })));
  }

  addDecisions() {
    this.reason = make("input", { type: "text", placeholder: "Why not? The model is told. (d)", "aria-label": "Reason to deny" });
    onEnter(this.reason, () => this.deny());
    this.buttons.append(
      button("Approve (a)", "main", () => this.approve()),
      button("Change … (c)", "", () => this.change()),
      this.reason,
      button("Deny", "", () => this.deny()),
    );
  }

  approve() {
    return this.decide(this.editor ? { decision: "change", arguments: this.edited() } : { decision: "approve" });
  }

  deny() {
    return this.decide(this.reason.value ? { decision: "deny", reason: this.reason.value } : { decision: "deny" });
  }

  /** Let the user write other arguments; `Approve` then sends them. */
  change() {
    if (!this.editor) {
      this.editor = make("textarea", { rows: "6", spellcheck: "false", "aria-label": "Arguments as JSON" });
      this.editor.value = JSON.stringify(this.arguments, null, 2);
      this.element.insertBefore(this.editor, this.buttons);
    }
    this.editor.focus();
    this.element.scrollIntoView({ block: "end" });
  }

  edited() {
    try {
      return JSON.parse(this.editor.value);
    } catch (error) {
      toast(`The arguments are no JSON: ${error.message}`);
      this.editor.focus();
      return undefined;
    }
  }

  async decide(body) {
    if (this.closed || ("arguments" in body && body.arguments === undefined)) return;
    try {
      await post(`v1/runs/${this.root}/approvals/${this.id}`, body);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      toast(error.message);
    }
  }

  /** Show what was decided, by whomever. */
  close(event) {
    this.closed = true;
    this.element.classList.add("closed");
    this.editor?.remove();
    const changed = event.decision === "changed" ? `\n${readable(event.arguments)}` : "";
    const said = DECIDED[event.decision] ?? event.decision;
    this.buttons.replaceChildren(make("p", { class: "decision" }, `${said}${event.reason ? `: ${event.reason}` : ""}${changed}`));
  }
}

function questionOf(event) {
  const { question } = event.arguments;
  return question === undefined ? readable(event.arguments) : question;
}

function button(text, kind, onclick) {
  return make("button", { type: "button", class: kind, onclick }, text);
}

function onEnter(input, act) {
  input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    act();
  });
}
