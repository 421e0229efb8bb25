// The page: starts runs, shows them, and passes on what the user decides.

import { Refusal, follow, get, post } from "./api.js";
import { byId, number, toast } from "./dom.js";
import { drawFleet, pulse } from "./fleet.js";
import { RunList } from "./list.js";
import { RunView } from "./run.js";

const SOONEST = 1000; // milliseconds between two looks at the list of runs
const THEME = "manyhands-theme";

let view = null;
let fleet = null;
const list = new RunList(open);

// --- Runs -------------------------------------------------------------------------------------

function open(id) {
  view?.close();
  showView("runs");
  history.replaceState(null, "", `#run=${id}`);
  view = new RunView(byId("detail"), id, refreshSoon);
  view.open();
}

async function start(event) {
  event.preventDefault();
  const task = byId("task");
  if (!task.value.trim()) return;
  const button = byId("new").querySelector("button.main");
  button.disabled = true;
  try {
    const run = await post("v1/runs", { task: task.value, agent: byId("agent").value });
    task.value = "";
    list.take([run]);
    list.choose(run.id);
    list.view.scrollTop = 0;
    list.view.focus(); // the keys for what comes now are single letters
  } catch (error) {
    toast(error instanceof Refusal ? error.message : "The server cannot be reached.");
  } finally {
    button.disabled = false;
  }
}

async function loadAgents() {
  const { agents } = await get("v1/agents");
  byId("agent").replaceChildren(...agents.map((agent) => new Option(`${agent.name}${agent.model ? ` (${agent.model})` : ""}`, agent.name)));
  byId("agent").hidden = agents.length < 2;
}

// --- What is new ------------------------------------------------------------------------------

let looked = 0;
let due = null;

/** Look at the list soon, but not more often than is of use. */
function refreshSoon() {
  due ??= setTimeout(refresh, Math.max(0, looked + SOONEST - Date.now()));
}

async function refresh() {
  looked = Date.now();
  due = null;
  if (document.hidden) return;
  try {
    await list.refresh();
  } catch { return; } // the stream says that the server is gone
  const run = view && list.runs.get(view.id);
  if (run) view.refresh(run);
}

function onFleet(_, now) {
  fleet = now;
  byId("pulse").textContent = pulse(now);
  const waiting = now.approvals.length;
  byId("needs-you").hidden = !waiting;
  byId("needs-you").textContent = waiting === 1 ? "1 waits for you" : `${number(waiting)} wait for you`;
  document.title = waiting ? `(${waiting}) manyhands` : "manyhands";
  if (!byId("fleet-view").hidden) drawFleet(byId("fleet-view"), now, (id) => list.choose(id));
  refreshSoon();
}

async function watch() {
  const onState = (connected) => { if (!connected) byId("pulse").textContent = "The server cannot be reached; trying again …"; };
  await follow("v1/fleet/events?runs=20", { onEvent: onFleet, onState, signal: new AbortController().signal });
}

// --- Views and looks --------------------------------------------------------------------------

function showView(name) {
  for (const one of ["runs", "fleet"]) {
    byId(`${one}-view`).hidden = one !== name;
    byId(`show-${one}`).setAttribute("aria-pressed", String(one === name));
  }
  if (name === "fleet" && fleet) onFleet("fleet", fleet);
}

const toggleView = () => showView(byId("fleet-view").hidden ? "fleet" : "runs");

/** Dark or light by choice; without one it is as the system has it. */
function changeTheme() {
  const root = document.documentElement.dataset;
  const dark = (root.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.theme = dark ? "light" : "dark";
  localStorage.setItem(THEME, root.theme);
}

const chosenTheme = localStorage.getItem(THEME);
if (chosenTheme) document.documentElement.dataset.theme = chosenTheme;

// --- Keys -------------------------------------------------------------------------------------

const focus = (element) => { element?.focus(); };

const KEYS = {
  n: () => { showView("runs"); focus(byId("task")); },
  "/": () => { showView("runs"); focus(byId("search")); },
  j: () => list.move(1),
  k: () => list.move(-1),
  w: () => list.nextWaiting(),
  a: () => view?.waiting?.approve(),
  d: () => focus(view?.waiting?.reason),
  c: () => view?.waiting?.change?.(),
  i: () => focus(view?.words),
  l: () => view?.limitsButton?.hidden === false && view.openLimits(),
  p: () => view?.pause(),
  x: () => view?.cancel(),
  f: toggleView,
  t: changeTheme,
  "?": () => byId("keys").showModal(),
};

const WRITING = "input, textarea, select";

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.matches(WRITING)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

byId("task").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("new").requestSubmit();
});

// --- Begin ------------------------------------------------------------------------------------

byId("new").addEventListener("submit", start);
byId("show-runs").addEventListener("click", () => showView("runs"));
byId("show-fleet").addEventListener("click", () => showView("fleet"));
byId("theme").addEventListener("click", changeTheme);
byId("help").addEventListener("click", () => byId("keys").showModal());
byId("needs-you").addEventListener("click", () => { showView("runs"); list.nextWaiting(); });
document.addEventListener("visibilitychange", refreshSoon);

async function begin() {
  for (;;) {
    try {
      await loadAgents();
      await list.load();
      break;
    } catch (error) {
      byId("pulse").textContent = error instanceof Refusal ? error.message : "The server cannot be reached; trying again …";
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
  const named = new URLSearchParams(location.hash.slice(1)).get("run");
  if (named && list.runs.has(named)) list.choose(named);
  await watch();
}

begin();
