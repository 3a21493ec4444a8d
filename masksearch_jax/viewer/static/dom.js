// Elements from data. Texts become text nodes and nothing else: no text of a model or a passage is ever read as HTML.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && typeof value !== "string") element[name] = value;
    else element.setAttribute(name === "className" ? "class" : name, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function show(place, ...children) {
  place.replaceChildren(...children.flat(Infinity).filter(Boolean));
}

// A number with a few digits; a dash for null.
export function number(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en").replace("-", "−");
  const size = Math.abs(value);
  if (size && (size < 0.001 || size >= 1e6)) return value.toExponential(1).replace("-", "−");
  return value.toFixed(size >= 100 ? 0 : digits).replace("-", "−");
}

// A score or a reward, always with two digits, so that columns of them can be read down.
export function score(value) {
  return value === null || value === undefined ? "–" : value.toFixed(2).replace("-", "−");
}

// A number on an axis, with as many digits as tell it from others of the same range: three at least.
export function tick(value, range = Infinity) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  const digits = Math.max(3, Math.min(6, 2 + Math.ceil(Math.log10(size / range))));
  return (size < 0.001 || size >= 1e5 ? value.toExponential(1) : String(+value.toPrecision(digits))).replace("-", "−");
}

export function signed(value, digits = 2) {
  return value === null || value === undefined ? "–" : (value > 0 ? "+" : "") + number(value, digits);
}

export function option(value, label, chosen) {
  return h("option", { value: String(value), selected: String(value) === String(chosen ?? "") }, label);
}

export function select(label, name, options, chosen, change) {
  return h("label", { className: "field" }, h("span", {}, label),
    h("select", { name, onchange: (event) => change(event.target.value) },
      options.map(([value, text]) => option(value, text, chosen))));
}

// Says something to the reader above the page; "" takes it away.
export function say(text) {
  const place = document.getElementById("message");
  place.textContent = text;
  place.hidden = !text;
}
