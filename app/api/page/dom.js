/** Elements, icons, and what is told to screen readers. */

const SVG = "http://www.w3.org/2000/svg";

export const find = (selector, root = document) => root.querySelector(selector);

/**
 * An element with attributes and children. `on…` are listeners; `true` is an attribute without a
 * value; `false`, `null` and `undefined` leave one out.
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** An icon of those at the end of index.html. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button of an icon alone, with its name for those who hear it or hover over it. */
export function iconButton(name, label, onclick, attributes = {}) {
  const own = { type: "button", class: "tool", "aria-label": label, title: label, onclick };
  return element("button", { ...own, ...attributes }, icon(name));
}

export function textButton(label, onclick, attributes = {}) {
  return element("button", { type: "button", class: "button", onclick, ...attributes }, label);
}

/**
 * Say something to screen readers, once they have finished what they are saying: from within an
 * open dialog, since all else is not there for them then.
 */
export function announce(words) {
  find("dialog[open] [role=status], #announcer").textContent = words;
}

/** Copy a text; also where the page came over plain HTTP and browsers have no clipboard for it. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = element("textarea", { class: "unseen-but-heard" });
    field.value = text;
    const focused = document.activeElement;
    (focused?.closest("dialog") ?? document.body).append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
    focused?.focus();
  }
}

/** A number of seconds for people: "4 s", "2 min". */
export function inWords(seconds) {
  if (seconds < 1) return "a moment";
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}
