// The tokens of an episode, coloured by one of the values that sampling and training had for each.
import { h, number, select, show, signed } from "./dom.js";

// name: [label, explanation, how far from 0 the full colour is, does the sign matter]
const COLOURS = {
  trainable: ["who wrote it", "coloured: the policy wrote the token and is trained on it; grey: prompt and search results", 1, false],
  sampler: ["sampler log-prob", "the darker, the less likely the token was when it was sampled", 4, false],
  trainer: ["trainer log-prob", "the denominator of the ratio: the trainer's log-prob before the update", 4, false],
  mismatch: ["trainer − sampler", "log-prob of the trainer minus that of the sampler; both should compute the same", 0.1, true],
  advantage: ["advantage", "the same for every token of an episode: blue is rewarded, red is punished", 2, true],
  ratio: ["log ratio after the update", "how much more (blue) or less (red) likely the iteration's update made the token", 0.25, true],
  clipped: ["clipped", "tokens outside the clip after the update: blue at the upper bound, red at the lower", 1, true],
};
let colour = "trainable";

// Returns the values of token `at` of an episode by name; null where there is none.
function valuesOf(episode, at) {
  const values = episode.values, trainable = values.trainable[at] === 1;
  const found = { trainable: trainable ? 1 : 0 };
  if (!trainable) return found;
  found.sampler = values.sampler[at];
  if (values.trainer) {
    found.trainer = values.trainer[at];
    found.mismatch = found.trainer - found.sampler;
    found.advantage = episode.advantage;
  }
  if (values.after) {
    found.after = values.after[at];
    found.ratio = found.after - found.trainer;
    found.clipped = values.clipped[at];
  }
  return found;
}

function paint(span, found) {
  const value = found[colour];
  span.classList.remove("up", "down");
  if (!found.trainable || value === undefined || value === null) return;
  const [, , full, matters] = COLOURS[colour];
  const share = Math.min(1, Math.abs(value) / full);
  if (share === 0) return;
  span.classList.add(matters && value < 0 ? "down" : "up");
  span.style.setProperty("--share", `${Math.round(share * (colour === "trainable" ? 35 : 75))}%`);
}

export function tokenView(episode) {
  const values = episode.values, prompt = values.prompt[0];
  const inspector = h("div", { className: "inspector", "aria-live": "polite" }, "Point at a token, or tap it.");
  const spans = values.texts.map((text, at) => {
    const span = h("span", { className: values.trainable[at] ? "token written" : "token" }, text || "␣");
    span.dataset.at = at;
    if (!text) span.classList.add("part");
    return span;
  });
  const all = spans.map((_, at) => valuesOf(episode, at));
  const explanation = h("span", { className: "note" });
  const recolour = (name) => {
    colour = name;
    spans.forEach((span, at) => paint(span, all[at]));
    explanation.textContent = COLOURS[colour][1];
  };
  let chosen = null;
  const inspect = (event) => {
    const span = event.target.closest(".token");
    if (!span) return;
    chosen?.classList.remove("chosen");
    chosen = span;
    span.classList.add("chosen");
    show(inspector, describe(episode, +span.dataset.at, all[+span.dataset.at]));
  };
  const text = h("div", { className: "tokens", onpointerover: inspect, onclick: inspect },
    h("details", { className: "prompt" }, h("summary", {}, `prompt, ${prompt} tokens`), spans.slice(0, prompt)),
    spans.slice(prompt));
  const available = Object.keys(COLOURS).filter((name) => all.some((found) => found[name] !== undefined));
  if (!available.includes(colour)) colour = "trainable";
  const choice = select("colour by", "colour", available.map((name) => [name, COLOURS[name][0]]), colour, recolour);
  recolour(colour);
  return h("div", { className: "token-view" }, h("div", { className: "bar" }, choice, explanation), text, inspector);
}

function describe(episode, at, found) {
  const values = episode.values;
  const facts = [["token", JSON.stringify(values.texts[at])], ["place", at], ["id", values.ids[at]]];
  if (!found.trainable) {
    facts.push(["from", at < values.prompt[0] ? "prompt" : "environment"]);
  } else {
    const probability = (value) => `${number(value, 3)} (${number(Math.exp(value) * 100, 1)} %)`;
    facts.push(["sampler log-prob", probability(found.sampler)]);
    if (found.trainer !== undefined) {
      facts.push(["trainer log-prob", probability(found.trainer)], ["trainer − sampler", signed(found.mismatch, 4)],
        ["advantage", signed(found.advantage)]);
    }
    if (found.after !== undefined) {
      facts.push(["after the update", probability(found.after)], ["ratio", number(Math.exp(found.ratio), 3)],
        ["clip", { 1: "at the upper bound", 0: "inside", "-1": "at the lower bound" }[found.clipped]]);
    }
  }
  return h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
}
