"""How the page of a trace looks."""

SHEET = """\
:root {
  --page: #fbfaf7; --card: #ffffff; --ink: #1d1c1a; --dim: #6a675f; --line: #e2dfd6;
  --accent: #8a6d00; --model: #c9a400; --work: #7ba7bc; --good: #1c7a43; --bad: #b3261e; --bad-page: #fdf1f0;
  --well: #f5f3ec;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --page: #16171a; --card: #1e2024; --ink: #e6e4de; --dim: #9a978e; --line: #33363c;
    --accent: #e0bd3a; --model: #d4b702; --work: #4e7f96; --good: #6fcf97; --bad: #ff8a80;
    --bad-page: #2e1f1f; --well: #17191c;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem; }
footer { max-width: 70rem; margin: 0 auto; padding: 0 1rem 2rem; color: var(--dim); font-size: .8rem; }
h1 { font-size: 1.25rem; margin: 0 0 .5rem; color: var(--accent); }
h2 { font-size: .8rem; margin: 0 0 .25rem; color: var(--dim); font-weight: 600; }
pre, code { font: .82rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
pre { margin: .5rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
pre.task { font: inherit; font-size: 1.05rem; font-weight: 600; }
pre.words { font: inherit; }
pre.code, .code { background: var(--well); }
pre.code { padding: .6rem .8rem; border-radius: 6px; border: 1px solid var(--line); }
pre.error { color: var(--bad); }
pre.result { color: var(--dim); }
dl { display: flex; flex-wrap: wrap; gap: .25rem 1.75rem; margin: .5rem 0 1rem; }
dt { color: var(--dim); font-size: .75rem; }
dd { margin: 0; font-size: .85rem; overflow-wrap: anywhere; }
dd.good { color: var(--good); font-weight: 600; }
dd.bad { color: var(--bad); font-weight: 600; }
.step, .end { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .55rem .9rem; margin: .6rem 0; }
.step.bad, .end.bad { background: var(--bad-page); }
.end { border-left: 4px solid var(--accent); }
.end.bad { border-left-color: var(--bad); }
.call { border-left: 3px solid var(--work); padding: .1rem 0 .1rem .7rem; margin: .5rem 0; }
.call.bad { border-left-color: var(--bad); }
.run .run { border-left: 3px solid var(--accent); padding-left: .9rem; margin: .5rem 0; }
.run .run h1 { font-size: 1rem; }
.run .run pre.task { font-size: .85rem; font-weight: 400; color: var(--dim); }
summary { cursor: pointer; display: grid; grid-template-columns: minmax(0, 1fr) auto minmax(6rem, 26%);
  gap: 1rem; align-items: center; }
summary::-webkit-details-marker { display: none; }
summary .name { font-weight: 600; overflow-wrap: anywhere; }
summary .name::before { content: "▸ "; color: var(--dim); }
details[open] > summary .name::before { content: "▾ "; }
summary code.name { font-weight: 400; }
summary .took { color: var(--dim); font-size: .78rem; white-space: pre; font-variant-numeric: tabular-nums; }
summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
.long summary { display: block; color: var(--dim); font-size: .78rem; }
.long summary::before { content: "▸ "; }
.long[open] summary::before { content: "▾ "; }
.bar { position: relative; height: .6rem; background: var(--well); border-radius: 3px; overflow: hidden; }
.bar b { position: absolute; top: 0; bottom: 0; background: var(--work); border-radius: 3px;
  overflow: hidden; }
.bar i { display: block; height: 100%; background: var(--model); }
.note { color: var(--dim); font-size: .85rem; }
@media (max-width: 40rem) {
  summary { grid-template-columns: 1fr auto; }
  summary .bar { grid-column: 1 / -1; }
}
@media print {
  body { background: #fff; font-size: 11pt; }
  .step, .end { break-inside: avoid-page; }
  pre.code, .code { background: #fff; }
  details::details-content { content-visibility: visible; block-size: auto; }
  .bar, .bar b, .bar i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""
