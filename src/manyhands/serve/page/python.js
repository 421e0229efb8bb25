// Python in colours: good enough to read by, and made of text nodes only.

import { make } from "./dom.js";

const KEYWORDS = new Set(
  ("False None True and as assert async await break class continue def del elif else except finally for from global if "
    + "import in is lambda match case nonlocal not or pass raise return try while with yield").split(" "),
);
const TOKEN = new RegExp(
  [
    "(?<c>#[^\\n]*)",
    "(?<s>[rbfuRBFU]{0,2}(?:\"\"\"[\\s\\S]*?(?:\"\"\"|$)|'''[\\s\\S]*?(?:'''|$)|\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'?))",
    "(?<m>\\b\\d[\\w.]*)",
    "(?<n>[A-Za-z_]\\w*)(?<call>\\s*\\()?",
  ].join("|"),
  "g",
);
// Colours are a help for people, who do not read so much.
const LONGEST = 50_000;

/** Return a `pre` with `source` in colours. */
export function python(source) {
  const block = make("pre", { class: "code" });
  if (source.length > LONGEST) {
    block.textContent = source;
    return block;
  }
  let at = 0;
  for (const found of source.matchAll(TOKEN)) {
    const [kind, text] = kindOf(found.groups);
    if (kind === null) continue;
    block.append(source.slice(at, found.index), make("span", { class: kind }, text));
    at = found.index + text.length;
  }
  block.append(source.slice(at));
  return block;
}

function kindOf({ c, s, m, n, call }) {
  if (c) return ["c", c];
  if (s) return ["s", s];
  if (m) return ["m", m];
  if (KEYWORDS.has(n)) return ["k", n];
  return call === undefined ? [null, n] : ["f", n];
}
