"use strict";
/* Every feature of some dictionaries: a list to sort and search, a card, and its neighbours' cards.
A dictionary's data is a script, loaded when it is first looked at. An address names a run or a
feature: #RUN, #local-17, #local-17-1 (at layer 1; without one, at the middle layer). */

/** Where an address leads: the dictionary's key and perhaps a feature, of [{key, run, layer}]. */
function target(address, dictionaries, middle) {
  let name = address.replace(/^#/, "");
  try { name = decodeURIComponent(name); } catch { /* then it is none of ours */ }
  const run = dictionaries.find((one) => one.run === name);
  if (run) return { key: run.key, id: null };
  const [, objective, id, layer = middle] = /^(\w+)-(\d+)(?:-(\d+))?$/.exec(name) || [];
  const found = dictionaries.find((one) => one.key === `${objective}-${layer}`);
  return found ? { key: found.key, id: Number(id) } : null;
}

/** The features whose number, label, strongest words or raised words hold every word of `query`,
    in order; those without a value come last. */
function listed(features, query, order, text) {
  const wanted = query.toLowerCase().split(/\s+/).filter(Boolean);
  const kept = features.filter(({ id, label, contexts, raised }) => {
    const peaks = contexts.map(([row, peak]) => text.words[text.rows[row][peak]]);
    const own = [id, label, ...peaks, ...raised.map(([word]) => word)].join(" ").toLowerCase();
    return wanted.every((word) => own.includes(word));
  });
  const value = (feature) => feature[order] ?? -Infinity;
  const compare = {
    id: (a, b) => a.id - b.id,
    label: (a, b) => !a.label - !b.label || a.label.localeCompare(b.label) || a.id - b.id,
  }[order] || ((a, b) => (value(a) === value(b) ? a.id - b.id : value(b) > value(a) ? 1 : -1));
  return kept.sort(compare);
}

const digits = (value, unit = "") =>
  value === null || value === undefined ? "–" : `${Number(value.toPrecision(2))}${unit}`;
const pairs = (flat) => flat.flatMap((one, i) => (i % 2 ? [] : [[one, flat[i + 1]]]));

/** The features of a dictionary, whose data is a list for each of their values; lists of pairs lie
    flat in it, and words are numbers. */
function unfolded({ columns, words }) {
  const spelled = (flat) => pairs(flat).map(([i, size]) => [words[i], size]);
  return (columns.id || []).map((id, i) => {
    const one = Object.fromEntries(Object.entries(columns).map(([name, all]) => [name, all[i]]));
    const contexts = one.contexts.map(([row, peak, ...fired]) => [row, peak, pairs(fired)]);
    const [raised, lowered] = [spelled(one.raised), spelled(one.lowered)];
    return { ...one, contexts, raised, lowered, near: one.near.map(pairs) };
  });
}

/** The points of a map: which feature of which dictionary stands where; in the data they lie flat. */
const pointsOf = ({ sides }) => sides.flatMap(({ key, points }) => points.flatMap((id, i) =>
  (i % 4 ? [] : [{ key, id, x: points[i + 1], y: points[i + 2], region: points[i + 3] }])));

/** Of points, the nearest in an arrow key's direction: further that way than across; else `from`. */
function beyond(points, from, arrow) {
  const ahead = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[arrow];
  const away = ({ x, y }) => {
    const along = (x - from.x) * ahead[0] + (y - from.y) * ahead[1];
    const across = Math.abs((x - from.x) * ahead[1]) + Math.abs((y - from.y) * ahead[0]);
    return along > 0 && across <= along ? along + across : Infinity;
  };
  return points.reduce((best, one) => (away(one) < away(best) ? one : best), from);
}

function startPage() {
  const at = (id) => document.getElementById(id);
  const { dictionaries, middle, maps, shapes } = JSON.parse(at("index").textContent);
  const about = new Map(dictionaries.map((one) => [one.key, one]));

  const made = new Map();
  function featuresOf(key) {
    if (!made.has(key)) made.set(key, unfolded(FEATURES[key]));
    return made.get(key);
  }

  /** Calls `then` once the data of these dictionaries is there. */
  function load(keys, then) {
    const missing = keys.filter((key) => !(globalThis.FEATURES || {})[key]);
    let waiting = missing.length;
    if (!waiting) then();
    for (const key of missing) {
      const script = element("script", { src: `site/features_${key}.js` });
      script.onload = () => { if (!--waiting) then(); };
      script.onerror = () => (at("count").textContent = `The data of ${about.get(key).name} is missing.`);
      document.head.append(script);
    }
  }

  const address = (key, id) => {
    const { objective, layer } = about.get(key);
    return `#${objective}-${id}${layer === middle ? "" : `-${layer}`}`;
  };

  function context([row, peak, fired], most) {
    const active = new Map(fired), start = Math.max(0, peak - TEXT.around), line = element("li");
    TEXT.rows[row].slice(start, peak + TEXT.around + 1).forEach((number, i) => {
      const word = visible(TEXT.words[number]), size = active.get(start + i);
      const shown = start + i === peak ? element("b", {}, word) : word;
      const shade = { title: String(size), "--a": (0.6 * size) / most };
      line.append(size ? element("mark", shade, shown) : shown, " ");
    });
    line.append(element("small", {}, digits(active.get(peak))));
    return line;
  }

  function histogram({ bars, most }) {
    const tallest = Math.max(...bars, 1), width = 240, height = 60, step = width / bars.length;
    const said = `${bars.reduce((a, b) => a + b, 0)} activations above 0, up to ${most}`;
    const picture = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": said };
    return element("figure", {}, element("svg:svg", picture, ...bars.map((count, i) => element("svg:rect", {
      x: i * step, width: step - 1, y: height * (1 - count / tallest), height: height * count / tallest }))),
      element("figcaption", {}, `0 to ${most}; the tallest bar: ${tallest} tokens`));
  }

  function logits(feature) {
    if (!feature.raised.length) return element("p", {}, "No direct path to the logits here.");
    const cells = ([word, size]) => [element("td", {}, visible(word)), element("td", {}, digits(size))];
    const heads = ["raises", "lowers"].map((side) => element("th", { scope: "col", colspan: 2 }, side));
    return element("table", { class: "logits" }, element("thead", {}, element("tr", {}, ...heads)),
      element("tbody", {}, ...feature.raised.map((pair, i) =>
        element("tr", {}, ...cells(pair), ...cells(feature.lowered[i])))));
  }

  function card(key, feature, beside) {
    const facts = [["score", digits(feature.score)], ["F1", digits(feature.f1)],
      ["fires on", digits(100 * feature.share, " % of tokens")]];
    return element("article", {},
      element("h3", { tabindex: -1 },
        element("a", { href: address(key, feature.id) }, `${about.get(key).name} · feature ${feature.id}`)),
      ...(beside ? [element("p", { class: "near" }, beside)] : []),
      element("p", { class: "label" }, feature.label || "no explanation"),
      element("dl", {}, ...facts.map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)))),
      element("h4", {}, "Strongest contexts"),
      element("ol", {}, ...feature.contexts.map((one) => context(one, feature.most))),
      element("h4", {}, "Activations"), histogram(feature),
      element("h4", {}, "Direct effect on logits"), logits(feature));
  }

  /** The map of the dictionary that is listed, of several the one that was chosen. */
  function drawMap() {
    const key = at("dictionary").value, own = maps.filter(({ sides }) => sides.some((s) => s.key === key));
    const named = own.map(({ name }) => name), kept = Math.max(0, named.indexOf(at("map").value));
    at("mapped").hidden = !own.length;
    if (!own.length) return;
    at("map").replaceChildren(...named.map((name, i) => element("option", { selected: i === kept }, name)));
    load(own[kept].sides.map((side) => side.key), () => {
      const points = pointsOf(own[kept]), label = new Map();
      for (const { key: side } of own[kept].sides)
        for (const one of featuresOf(side)) label.set(address(side, one.id), one.label || "no explanation");
      const links = points.map((one, i) => {
        const href = address(one.key, one.id), said = `${about.get(one.key).name} · feature ${one.id}: ` +
          (label.get(href) || "does not fire on this text") + (one.region ? `; in region ${one.region}` : "");
        const kind = `point ${about.get(one.key).objective}${one.region ? " region" : ""}`;
        const say = () => (at("said").textContent = said);
        return element("svg:a", { href, class: kind, "aria-label": said, tabindex: i ? -1 : 0,
          pointerover: say, focus: say, keydown: (event) => {
            if (!event.key.startsWith("Arrow")) return;
            event.preventDefault();
            links[points.indexOf(beyond(points, one, event.key))].focus();
          } }, element("svg:path", { d: shapes[about.get(one.key).objective],
          transform: `translate(${one.x} ${one.y}) scale(0.7)` }));
      });
      at("points").replaceChildren(...links);
      mark();
    });
  }

  /** On the map, the feature that is shown below. */
  function mark() {
    for (const one of at("points").children)
      one.classList.toggle("same", one.getAttribute("href") === at("feature").dataset.shown);
  }

  function show(key, id) {
    const title = `${about.get(key).name}, feature ${id}`, none = `${title}: it does not fire on this text.`;
    const feature = featuresOf(key).find((one) => one.id === id), others = FEATURES[key].others;
    at("feature").replaceChildren(feature ? card(key, feature) : element("p", { tabindex: -1 }, none));
    document.title = title;
    at("feature").dataset.shown = address(key, id);
    mark();
    if (feature) load(others, () => {
      if (document.title !== title) return; // another was chosen while data came
      feature.near.forEach(([[number, cosine], ...more], i) => {
        const found = featuresOf(others[i]).find((one) => one.id === number);
        const next = more.map(([j, c]) => `; then ${j} at ${c.toFixed(2)}`).join("");
        at("feature").append(card(others[i], found, `decoder cosine ${cosine.toFixed(2)}${next}`));
      });
    });
  }

  function list() {
    const key = at("dictionary").value, own = FEATURES[key];
    const found = listed(featuresOf(key), at("search").value, at("order").value, TEXT);
    at("count").textContent = `${found.length} of ${own.shown} features` +
      (own.shown < own.alive ? ` (of ${own.alive} that are alive somewhere)` : "");
    at("list").replaceChildren(...found.map((one) => element("tr", {},
      element("th", { scope: "row" }, element("a", { href: address(key, one.id) }, String(one.id))),
      element("td", {}, digits(one.score)), element("td", {}, digits(one.f1)),
      element("td", {}, digits(100 * one.share)), element("td", {}, one.label || "–"))));
    return found;
  }

  function follow() {
    const to = target(location.hash, dictionaries, middle) || { key: at("dictionary").value, id: null };
    at("dictionary").value = to.key;
    load([to.key], () => {
      let found = list();
      drawMap();
      const hidden = to.id !== null && !found.some((one) => one.id === to.id);
      if (hidden) at("search").value = "", found = list();
      if (to.id !== null || found.length) show(to.key, to.id ?? found[0].id);
      if (to.id !== null) at("feature").querySelector("h3, p").focus({ preventScroll: innerWidth > 800 });
    });
  }

  for (const id of ["search", "order"]) at(id).addEventListener("input", list);
  at("map").addEventListener("input", drawMap);
  at("dictionary").addEventListener("change", () => (location.hash = about.get(at("dictionary").value).run));
  addEventListener("hashchange", follow);
  follow();
}
if (typeof document !== "undefined") startPage();
