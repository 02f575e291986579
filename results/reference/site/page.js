"use strict";
/* What the pages that compute share. Texts of data go into a page as text alone, never as HTML. */

const INVISIBLE = { "\n": "⏎", "\t": "⇥", "\r": "␍" };

/** An element of texts and elements, of a picture where the tag is `svg:…`; functions are listeners,
    `--names` variables of its style. */
function element(tag, attributes = {}, ...inside) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    if (typeof value === "function") made.addEventListener(name, value);
    else if (name.startsWith("--")) made.style.setProperty(name, value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  made.append(...inside);
  return made;
}

/** A word with signs for what cannot be seen. */
function visible(word) {
  const unseen = /[\p{C}\p{Zl}\p{Zp}]/gu;
  return word.replace(unseen, (c) => INVISIBLE[c] || "·") || "∅";
}
