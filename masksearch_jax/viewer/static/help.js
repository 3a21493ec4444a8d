// The keys of the viewer.
import { h, show } from "./dom.js";

const KEYS = [
  ["j, k", "next and previous episode (task, when comparing)"],
  ["← →", "previous and next sample of the group"],
  ["n, p", "next and previous page"],
  ["t", "turns or tokens of the opened episode"],
  ["g", "all samples of its group beside one another"],
  ["/", "search"],
  ["1, 2, 3", "episodes, compare, curves"],
  ["r", "read the run again"],
  ["Esc", "close what is open"],
  ["?", "this help"],
];

export function help() {
  const dialog = document.getElementById("help");
  if (dialog.open) return dialog.close();
  show(dialog, h("h2", {}, "Keys"),
    h("dl", {}, KEYS.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))),
    h("p", { className: "note" }, "The address always names what is shown: copy it to send it. A search finds whole words and beginnings of the last one."),
    h("button", { type: "button", onclick: () => dialog.close() }, "close"));
  dialog.showModal();
}
