// The words of accepted answers, marked wherever they stand in a text.
import { h } from "./dom.js";

function escaped(text) {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

// Returns the pattern of the accepted answers as whole words in any case and spacing; null if there are none.
export function pattern(golds) {
  const found = [...new Set(golds.flat())].filter((gold) => gold.trim()).sort((one, two) => two.length - one.length);
  if (!found.length) return null;
  const words = found.map((gold) => gold.trim().split(/\s+/).map(escaped).join("\\s+")).join("|");
  return new RegExp(`(?<![\\p{L}\\p{N}_])(?:${words})(?![\\p{L}\\p{N}_])`, "giu");
}

// Returns the text as nodes, with what the pattern finds in <mark>.
export function marked(text, found) {
  if (!found) return [text];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(found)) {
    nodes.push(text.slice(end, match.index), h("mark", {}, match[0]));
    end = match.index + match[0].length;
  }
  nodes.push(text.slice(end));
  return nodes;
}
