/** A picture large, beside the one that it is a variation of. */

import { announce, element, find, iconButton } from "./dom.js";
import { imageOf, tools } from "./run.js";

export class Viewer {
  constructor(actions) {
    this.actions = actions;
    this.dialog = find("#viewer");
    this.body = find("#viewer-body");
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.move(-1);
      if (event.key === "ArrowRight") this.move(1);
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close(); // beside what is in it
    });
  }

  show(run, index) {
    this.run = run;
    this.index = index;
    this.fill();
    this.dialog.showModal();
  }

  move(by) {
    const { pictures } = this.run;
    for (let index = this.index + by; index in [...pictures]; index += by) {
      if (pictures[index]) {
        this.index = index;
        const { title } = document.activeElement;
        this.fill();
        const same = title && find(`[title="${title}"]`, this.body); // what had it has gone
        (same || find("button", this.body)).focus();
        announce(find("#viewer-title").textContent);
        return;
      }
    }
  }

  fill() {
    const { run, index } = this;
    const picture = run.pictures[index];
    const close = () => this.dialog.close();
    const actions = Object.fromEntries(
      ["vary", "mix"].filter((name) => this.actions[name]).map((name) => [
        name, (one) => { close(); this.actions[name](one); },
      ]),
    );
    const several = run.pictures.filter(Boolean).length > 1;
    this.body.replaceChildren(
      element(
        "header",
        {},
        element("h2", { id: "viewer-title" }, `Variation ${index + 1} of ${run.name}`),
        iconButton("close", "Close", close, { autofocus: true }),
      ),
      element(
        "div",
        { class: "pair" },
        element("figure", {}, inputsOf(run), element("figcaption", {}, captionOf(run))),
        element(
          "figure",
          {},
          element("img", { src: picture.url, alt: `Variation ${index + 1}` }),
          element("figcaption", {}, `Variation, seed ${picture.seed}`),
        ),
      ),
      element(
        "footer",
        {},
        several ? iconButton("back", "Previous variation", () => this.move(-1)) : null,
        element("div", { class: "tools" }, ...tools(picture, actions)),
        several ? iconButton("next", "Next variation", () => this.move(1)) : null,
      ),
    );
  }
}

function inputsOf(run) {
  const pictures = run.inputs.map(({ url, label }) => imageOf(url, label));
  return element("div", { class: "inputs" }, ...pictures);
}

function captionOf({ inputs }) {
  if (inputs.length === 1) return "Input";
  return `Inputs: ${inputs.map(({ weight }) => `${Math.round(100 * weight)} %`).join(" and ")}`;
}
