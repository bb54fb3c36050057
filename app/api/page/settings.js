/** The form's numbers and choices, with the checkpoint's defaults and the service's limits. */

import { element, find } from "./dom.js";

const FIRST_N = 4;

export class Settings {
  constructor(form) {
    this.form = form;
    for (const slider of form.querySelectorAll("input[type=range]")) {
      slider.addEventListener("input", () => show(slider));
    }
    find("#defaults").addEventListener("click", () => this.reset());
  }

  /** Take limits and defaults from what `GET /` tells. */
  fill({ limits, model, previews }) {
    this.model = model;
    this.previews = previews;
    for (const [name, { minimum, maximum }] of Object.entries(limits)) {
      const input = this.form.elements[name];
      if (input?.type === "range" || input?.type === "number") {
        // A slider stops at multiples of its step from its least value on: the greatest is to be one.
        const step = input.type === "range" ? Number(input.step || 1) : 1;
        Object.assign(input, { min: Math.ceil(minimum / step) * step, max: maximum });
      }
    }
    for (const field of this.form.querySelectorAll("[data-limit]")) {
      field.hidden = !(field.dataset.limit in limits);
    }
    choices(find("#scheduler"), model.schedulers.map((name) => [name, name]));
    choices(find("#size"), model.sizes.map((size) => [size.join("x"), size.join(" × ")]));
    this.reset();
  }

  reset() {
    const { model } = this;
    const defaults = { ...model, n: FIRST_N, seed: "", size: model.sizes[0].join("x"), strength: 1 };
    for (const name of ["n", "guidance_scale", "num_inference_steps", "strength", "seed",
      "scheduler", "size", "fit"]) {
      const input = find(`#${name}`);
      input.value = defaults[name];
      if (input.type === "range") show(input);
    }
  }

  /** The fields as a form takes them; what is left to chance or not offered is left out. */
  fields() {
    const [width, height] = find("#size").value.split("x");
    const values = { width, height };
    for (const name of ["n", "guidance_scale", "num_inference_steps", "seed", "scheduler", "fit"]) {
      values[name] = find(`#${name}`).value;
    }
    const strength = find("#strength");
    if (!strength.closest(".field").hidden && strength.value < 1) values.strength = strength.value;
    if (!values.seed) delete values.seed;
    if (this.previews) values.previews = "true";
    return values;
  }
}

function choices(select, entries) {
  select.replaceChildren(...entries.map(([value, words]) => element("option", { value }, words)));
  select.closest("[data-choice]").hidden = entries.length < 2;
}

function show(slider) {
  const { min, max, value } = slider;
  find(`output[for=${slider.id}]`).textContent = value;
  slider.style.setProperty("--part", `${(100 * (value - min)) / (max - min || 1)}%`);
}
