// What goes on in the whole server: totals, what runs wait for, limits, failures.

import { duration, make, number } from "./dom.js";

/** One line for the top of the page. */
export function pulse(fleet) {
  const { runs, server } = fleet;
  const parts = [`${number(runs.in_flight)} at work`];
  if (server?.queued) parts.push(`${number(server.queued)} queued`);
  const waiting = Object.entries(fleet.waiting_on).slice(0, 3).map(([what, count]) => `${what} ${number(count)}`);
  if (waiting.length) parts.push(waiting.join(", "));
  parts.push(`${number(runs.done)} done`);
  if (runs.failed) parts.push(`${number(runs.failed)} failed`);
  parts.push(`${fleet.rate.toFixed(1)}/s`, `${number(fleet.tokens.total)} tokens`);
  if (fleet.money) parts.push(`$${fleet.money.toFixed(2)}`);
  if (server?.draining) parts.unshift("the server is about to stop");
  return parts.join(" · ");
}

/** Draw the fleet's cards; `open` is called with the id of a run that is clicked. */
export function drawFleet(place, fleet, open) {
  const cards = [totals(fleet), bars("What runs do or wait for", fleet.waiting_on), limits(fleet.limits), bars("Failures", fleet.failures), oldest(fleet.in_flight, open), last(fleet.finished, open)];
  place.replaceChildren(...cards.filter(Boolean));
}

function card(title, kind, ...content) {
  return make("section", { class: `card ${kind}` }, make("h2", {}, title), ...content);
}

function totals(fleet) {
  const { runs, tokens, server } = fleet;
  const rows = [
    ["At work", number(runs.in_flight)],
    ["Queued", server?.queued === undefined ? null : `${number(server.queued)} of ${number(server.max_queued)}`],
    ["Done", number(runs.done)],
    ["Succeeded", number(runs.succeeded)],
    ["Failed", number(runs.failed)],
    ["Cancelled", number(runs.cancelled)],
    ["Runs per second", fleet.rate.toFixed(1)],
    ["Replies of models", number(fleet.model_calls)],
    ["Calls of tools", number(fleet.tool_calls)],
    ["Asked again", number(fleet.retries)],
    ["Refused (429)", number(fleet.refusals)],
    ["Tokens in, out", `${number(tokens.input)}, ${number(tokens.output)}`],
    ["Money", fleet.money === null ? null : `$${fleet.money.toFixed(4)}`],
    ["Up", duration(fleet.uptime)],
  ];
  const list = make("dl");
  for (const [name, value] of rows) if (value !== null) list.append(make("dt", {}, name), make("dd", {}, value));
  return card("Runs", "", list);
}

function bars(title, counts) {
  const entries = Object.entries(counts);
  if (!entries.length) return null;
  const most = Math.max(...entries.map(([, count]) => count));
  const rows = entries.slice(0, 12).flatMap(([name, count]) => [make("span", {}, name), make("meter", { min: 0, max: most, value: count, "aria-label": name }), make("span", {}, number(count))]);
  return card(title, "", make("div", { class: "bars" }, ...rows));
}

function limits(rows) {
  if (!rows?.length) return null;
  const lines = rows.flatMap((row) => (row.kind === "rate" ? rates(row) : [[row.name, row.held, row.limit, row.waiting]]));
  const cells = lines.flatMap(([name, held, limit, waiting]) => {
    const more = waiting ? ` (${number(waiting)} wait)` : "";
    return [make("span", {}, name), make("meter", { min: 0, max: limit, value: held, high: 0.9 * limit, optimum: 0, "aria-label": name }), make("span", {}, `${number(held)} of ${number(limit)}${more}`)];
  });
  return card("Limits", "", make("div", { class: "bars" }, ...cells));
}

function rates(row) {
  const lines = [];
  if (row.requests_per_minute) lines.push([`${row.name}, requests a minute`, row.requests_used, row.requests_per_minute, row.waiting]);
  if (row.tokens_per_minute) lines.push([`${row.name}, tokens a minute`, row.tokens_used, row.tokens_per_minute, row.waiting]);
  return lines;
}

function link(row, open) {
  const root = row.parent_id === null;
  return root ? make("button", { type: "button", class: "link", onclick: () => open(row.id) }, row.task) : row.task;
}

function table(title, heads, rows) {
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell))));
  return card(title, "wide", make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function oldest(rows, open) {
  if (!rows.length) return null;
  const cells = rows.slice(0, 20).map((row) => [link(row, open), row.agent, String(row.step), row.activity, duration(row.age), number(row.tokens?.total ?? 0)]);
  return table("At work the longest", ["Task", "Agent", "Step", "Does", "Age", "Tokens"], cells);
}

function last(rows, open) {
  if (!rows.length) return null;
  const cells = rows.slice(0, 20).map((row) => [link(row, open), row.agent, row.status ?? row.state ?? "", row.error?.message ?? "", duration(row.seconds ?? row.age)]);
  return table("Ended last", ["Task", "Agent", "How", "Why", "Time"], cells);
}
