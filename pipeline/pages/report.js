// What a reader's pointer and keys add to the report; without script all of it is there to be read.
"use strict";

const make = (tag, properties, ...inside) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...inside);
  return made;
};

// Tabs: one layer of the picture at a time.
function tabs(section) {
  const layers = [...section.querySelectorAll("[data-tab]")];
  if (layers.length < 2) return;
  const bar = make("div", { className: "tabs" });
  const show = (layer) => layers.forEach((one, i) => {
    one.hidden = one !== layer;
    bar.children[i].setAttribute("aria-pressed", one === layer);
  });
  for (const layer of layers) {
    const button = make("button", { type: "button" }, layer.dataset.tab);
    button.addEventListener("click", () => show(layer));
    bar.append(button);
  }
  layers[0].before(bar);
  show(layers[0]);
}

// The legend's names become switches.
function switches(section) {
  for (const name of section.querySelectorAll(".legend > span")) {
    const objective = name.className;
    const button = make("button", { type: "button", className: objective }, ...name.childNodes);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      const off = section.classList.toggle(`without-${objective}`);
      button.setAttribute("aria-pressed", !off);
    });
    name.replaceWith(button);
  }
}

// A point says what it is below the picture; arrow keys go from point to point of one panel.
function points(section) {
  const said = make("output", { className: "said" }, "Point at a mark, or take Tab and arrow keys.");
  section.append(said);
  const ahead = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  for (const panel of section.querySelectorAll(".panels > svg")) {
    const all = [...panel.querySelectorAll("a.point")];
    const x = (point) => point.getBoundingClientRect().left;
    all.forEach((point, i) => point.setAttribute("tabindex", i ? -1 : 0));
    const shown = (point) => getComputedStyle(point).display !== "none";
    const sorted = () => all.filter(shown).sort((a, b) => x(a) - x(b));
    const say = (event) => {
      const point = event.target.closest("a.point");
      if (!point) return;
      said.textContent = point.getAttribute("aria-label");
      for (const one of section.querySelectorAll("a.point")) {
        one.classList.toggle("same", one.dataset.run === point.dataset.run);
      }
    };
    panel.addEventListener("pointerover", say);
    panel.addEventListener("focusin", say);
    panel.addEventListener("keydown", (event) => {
      if (!(event.key in ahead)) return;
      event.preventDefault();
      const order = sorted();
      const next = order[order.indexOf(event.target.closest("a.point")) + ahead[event.key]];
      if (!next) return;
      for (const one of all) one.setAttribute("tabindex", one === next ? 0 : -1);
      next.focus();
    });
  }
}

// What a link leads to is unfolded, and everything before printing.
function unfold() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  if (target) target.scrollIntoView();
}

for (const section of document.querySelectorAll(".pareto")) {
  tabs(section);
  switches(section);
  points(section);
}
addEventListener("hashchange", unfold);
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
});
if (location.hash) unfold();
