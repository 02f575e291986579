"use strict";
/* Live splice: a GPT-2 and a sparse autoencoder in plain JavaScript. The first part is arithmetic and
knows nothing of the page: a word is an array of d numbers, a text is an array of words, a matrix is
one long array, row after row. The second part is the page. */

// ------------------------------------------------------------------ the arithmetic
/** Numbers from text: how large a step is, and 16 bits for the steps of each. */
function numbers([size, base64]) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return Float32Array.from(new Int16Array(bytes.buffer), (steps) => steps * size);
}

/** Every tensor of a model or an SAE, decoded. */
const unpacked = (tensors) =>
  Object.fromEntries(Object.entries(tensors).map(([name, text]) => [name, numbers(text)]));

const sum = (x, y) => x.map((value, i) => value + y[i]);
/** Of n numbers, those of x from i on and those of y from j on: a view of a part would take longer. */
function dot(x, y, i = 0, j = 0, n = x.length) {
  let total = 0;
  for (let end = i + n; i < end; i++, j++) total += x[i] * y[j];
  return total;
}

/** x W + b, with a row of W for each number of x. */
function affine(x, W, b) {
  const y = new Float64Array(b); // twice as precise as what is stored
  for (let i = 0, at = 0; i < x.length; i++, at += y.length) {
    const size = x[i];
    if (size === 0) continue; // codes are mostly 0
    for (let j = 0; j < y.length; j++) y[j] += size * W[at + j];
  }
  return y;
}

function softmax(scores) {
  const most = scores.reduce((a, b) => Math.max(a, b));
  const weights = scores.map((score) => Math.exp(score - most));
  const total = weights.reduce((a, b) => a + b);
  return weights.map((weight) => weight / total);
}

/** LayerNorm: mean 0 and variance 1 over the numbers of a word, then a gain and a bias for each. */
function layerNorm(x, gain, bias, epsilon) {
  const mean = x.reduce((a, b) => a + b) / x.length;
  const centred = x.map((value) => value - mean);
  const scale = Math.sqrt(dot(centred, centred) / x.length + epsilon);
  return centred.map((value, i) => (value / scale) * gain[i] + bias[i]);
}

const gelu = (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));

/** From word `from` on, every word looks back at itself and those before it, once with each head.
A word of `mixed` is the queries, keys and values of all heads, one after another. */
function attention(mixed, from, heads) {
  const d = mixed[from].length / 3, width = d / heads;
  return mixed.slice(from).map((own, i) => {
    const seen = new Float64Array(d), before = mixed.slice(0, from + i + 1);
    for (let at = 0; at < d; at += width) {
      const scores = before.map((word) => dot(own, word, at, d + at, width) / Math.sqrt(width));
      softmax(scores).forEach((weight, there) => {
        for (let j = 0; j < width; j++) seen[at + j] += weight * before[there][2 * d + at + j];
      });
    }
    return seen;
  });
}

/** What was computed of a text: a word sees none after it, so that a beginning that stays is kept. */
const memory = () => ({ tokens: [], logits: [], codes: [], mixed: [] });

/** How many words at the beginning of a text are those of the text before. */
function unchanged(tokens, past) {
  const first = tokens.findIndex((token, i) => token !== past.tokens[i]);
  return first < 0 ? tokens.length : first;
}

/** Logits of the next word after each token; `splice` = {layer, change} replaces what enters it. */
function forward(model, tokens, past = memory(), splice) {
  const w = model.weights, d = model.d_model, from = unchanged(tokens, past);
  for (const kept of [past.logits, past.codes, ...past.mixed]) kept.length = from;
  past.tokens = [...tokens];
  if (from === tokens.length) return [...past.logits];
  const row = (W, i) => new Float64Array(W.subarray(i * d, (i + 1) * d));
  const norm = (words, name) =>
    words.map((x) => layerNorm(x, w[`${name}.weight`], w[`${name}.bias`], model.epsilon));
  const linear = (words, name) =>
    words.map((x) => affine(x, w[`${name}.weight`], w[`${name}.bias`]));
  let stream = tokens.slice(from).map((token, i) =>
    sum(row(w["wte.weight"], token), row(w["wpe.weight"], from + i)));
  for (let k = 0; k <= model.layers; k++) {
    if (splice && splice.layer === k) stream = stream.map(splice.change);
    if (k === model.layers) break;
    const block = `h.${k}`, mixed = past.mixed[k] ||= [];
    mixed.push(...linear(norm(stream, `${block}.ln_1`), `${block}.attn.c_attn`));
    const moved = linear(attention(mixed, from, model.heads), `${block}.attn.c_proj`);
    stream = stream.map((x, i) => sum(x, moved[i]));
    const inner = linear(norm(stream, `${block}.ln_2`), `${block}.mlp.c_fc`);
    const added = linear(inner.map((x) => x.map(gelu)), `${block}.mlp.c_proj`);
    stream = stream.map((x, i) => sum(x, added[i]));
  }
  const unembed = w["lm_head.weight"] || w["wte.weight"]; // tied: the input's embeddings again
  past.logits.push(...norm(stream, "ln_f").map((x) =>
    new Float64Array(unembed.length / d).map((_, v) => dot(x, unembed, 0, v * d))));
  return [...past.logits];
}

/** The codes of a word: z = x W_enc + b_enc, where it fires; with k, only the k largest. */
function encode(sae, x) {
  const z = affine(x, sae.weights.W_enc, sae.weights.b_enc), threshold = sae.weights.threshold;
  const least = sae.k ? Float64Array.from(z).sort()[z.length - sae.k] : -Infinity;
  return z.map((value, j) => (value >= least && value > (threshold ? threshold[j] : 0) ? value : 0));
}

/** The text with the SAE in the model's stream: logits, and every word's codes. */
function spliced(model, tokens, sae, off, past = memory()) {
  const change = (x) => {
    const own = encode(sae, x);
    past.codes.push(own);
    const kept = own.map((code, j) => (off.has(j) ? 0 : code));
    return affine(kept, sae.weights.W_dec, sae.weights.b_dec);
  };
  const logits = forward(model, tokens, past, { layer: sae.layer, change });
  return { logits, codes: [...past.codes] };
}

/** KL(p ‖ q) in nats. */
const divergence = (p, q) =>
  p.reduce((total, value, i) => total + (value ? value * Math.log(value / q[i]) : 0), 0);

/** Words of a text as ids, and those that are none: lower case, marks stand alone, no guessing. */
function read(text, words) {
  const ids = new Map(words.map((word, id) => [word, id]));
  const found = text.toLowerCase().match(/[\p{L}\p{N}'’-]+|[^\s\p{L}\p{N}'’-]/gu) || [];
  return { ids: found.map((word) => ids.get(word)), unknown: found.filter((w) => !ids.has(w)) };
}

// ------------------------------------------------------------------ the page
const SHOWN = 8; // next words, and codes of a word at first
const LONG = 36, PAUSE = 300; // words that are computed while one types; else after so many ms
/** A share with a bar below it; the number says the same. */
const bar = (p, kind) => element("td", { class: `bar ${kind}`, "--share": `${100 * p}%` },
  `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`);

function startPage() {
  const at = (id) => document.getElementById(id);
  const model = { ...LIVE.model, weights: unpacked(LIVE.model.weights) };
  const saes = LIVE.saes.map((sae) => ({ ...sae, weights: unpacked(sae.weights), off: new Set(),
    past: memory() }));
  const labels = ({ key }) => globalThis.FEATURES?.[key]?.columns || {};
  let tokens = [], chosen = 0, clean = [], all = false; // of the text, and the word looked at
  let waiting; // for a pause in typing
  const past = memory();
  const spelled = (token) => (token ? model.words[token] : "(start)");

  function readText() {
    clearTimeout(waiting);
    const { ids, unknown } = read(at("sentence").value, model.words);
    const long = ids.length >= model.positions, left = ids.length + 1 - unchanged([0, ...ids], past);
    const strangers = [...new Set(unknown)].map((word) => `“${word}”`).join(", ");
    at("status").textContent = strangers
      ? `Not computed, for it is not among the model’s ${model.words.length - 1} words: ${strangers}.`
      : long ? `Not computed: ${ids.length} words, and the model takes ${model.positions - 1}.`
      : left > LONG ? `Computing ${left} words …` : "";
    if (strangers || long) at("result").hidden = true;
    else if (left > LONG) waiting = setTimeout(compute, PAUSE, ids);
    else compute(ids);
  }

  function compute(ids) {
    [tokens, chosen] = [[0, ...ids], ids.length];
    clean = forward(model, tokens, past).map(softmax);
    show();
    at("result").hidden = false;
    at("status").textContent = "";
  }

  function show() {
    const sae = saes[at("sae").selectedIndex];
    const { logits, codes } = spliced(model, tokens, sae, sae.off, sae.past);
    const after = logits.map(softmax);
    const lost = clean.map((p, i) => divergence(p, after[i]));
    const active = codes.map((own) => own.filter((code, j) => code > 0 && !sae.off.has(j)).length);
    const mean = (values) => values.reduce((a, b) => a + b) / values.length;
    const word = spelled(tokens[chosen]);
    showWords(active);
    at("next").textContent = `What comes after “${word}”`;
    at("facts").textContent =
      `KL from clean to spliced: ${lost[chosen].toFixed(3)} nats here, ${mean(lost).toFixed(3)} ` +
      `over the text. Active features: ${active[chosen]} here, ${mean(active).toFixed(1)} a word.`;
    const order = [...clean[chosen].keys()].sort((a, b) =>
      Math.max(clean[chosen][b], after[chosen][b]) - Math.max(clean[chosen][a], after[chosen][a]));
    at("words").replaceChildren(...order.slice(0, SHOWN).map((v) => element("tr", {},
      element("th", { scope: "row" }, v ? model.words[v] : "(end)"),
      bar(clean[chosen][v], "clean"), bar(after[chosen][v], "spliced"))));
    showCodes(sae, codes[chosen], word);
  }

  function showWords(active) {
    at("text").replaceChildren(...tokens.map((token, i) => element("li", {}, element("button", {
      type: "button", "aria-pressed": String(i === chosen),
      "aria-label": `${spelled(token)}: ${active[i]} active features`,
      click: () => { chosen = i; all = false; show(); at("text").children[i].firstChild.focus(); },
    }, spelled(token), element("small", {}, String(active[i]))))));
  }

  function showCodes(sae, own, word) {
    const found = [...own.keys()].filter((j) => own[j] > 0).sort((a, b) => own[b] - own[a]);
    const { id = [], label = [] } = labels(sae), known = new Map(id.map((j, i) => [j, label[i]]));
    at("codes-title").textContent = `The codes of “${word}”`;
    at("codes").replaceChildren(...found.slice(0, all ? found.length : SHOWN).map((j) => {
      const link = known.has(j) ? element("a", { href: sae.address + j }, `${j}`) : `${j}`;
      const box = element("input", { type: "checkbox", id: `on-${j}`, checked: !sae.off.has(j),
        "aria-label": `feature ${j} on`, change: () => {
          if (!sae.off.delete(j)) sae.off.add(j);
          sae.past = memory();
          show(), at(`on-${j}`).focus();
        } });
      return element("tr", { class: sae.off.has(j) ? "off" : "" }, element("td", {}, box),
        element("th", { scope: "row" }, link), element("td", {}, own[j].toFixed(2)),
        element("td", {}, known.get(j) || "–"));
    }));
    at("more").hidden = all || found.length <= SHOWN;
    at("more").textContent = `Show all ${found.length}`;
    at("off").textContent = sae.off.size
      ? `Switched off in the whole text: ${[...sae.off].join(", ")}.` : "Every feature is on.";
    at("restore").disabled = !sae.off.size;
  }

  at("sentence").addEventListener("input", readText);
  at("sae").addEventListener("change", show);
  at("example").addEventListener("change", () => {
    at("sentence").value = at("example").value;
    readText();
  });
  at("more").addEventListener("click", () => { all = true; show(); at("codes-title").focus(); });
  at("restore").addEventListener("click", () => {
    const sae = saes[at("sae").selectedIndex];
    [sae.off, sae.past] = [new Set(), memory()];
    show();
  });
  readText();
}
if (typeof document !== "undefined") startPage();
