/** Two pictures to be mixed, and how much of each. */

import { announce, element, find, iconButton, textButton } from "./dom.js";

const MOST = 2;

export class Mixer {
  /** `onmix(inputs)` gets two pictures, each with its weight. */
  constructor(onmix) {
    this.onmix = onmix;
    this.pictures = [];
    this.part = 0.5;
    this.tray = find("#mixer");
  }

  add(picture) {
    if (this.pictures.some((one) => one.url === picture.url)) return;
    this.pictures = [...this.pictures, picture].slice(-MOST);
    this.lay();
    const words = this.pictures.length < MOST ? "; add another one to mix it with" : "";
    announce(`${picture.label} is in the mix${words}`);
    if (this.pictures.length === MOST) find("input", this.tray).focus();
  }

  clear() {
    this.pictures = [];
    this.lay();
  }

  lay() {
    this.tray.hidden = !this.pictures.length;
    const [first, second] = this.pictures.map(({ url, label }) =>
      element("img", { src: url, alt: label }));
    const close = iconButton("close", "Leave the mix", () => this.clear());
    if (!second) {
      const words = element("p", {}, "Add another picture to mix it with");
      this.tray.replaceChildren(...[first, words, close].filter(Boolean));
      return;
    }
    const slider = element("input", {
      type: "range", min: 0.05, max: 0.95, step: 0.05, value: this.part,
      "aria-label": "How much of the second picture",
      oninput: () => {
        this.part = Number(slider.value);
        show();
      },
    });
    const show = () => {
      const second = Math.round(100 * this.part);
      slider.setAttribute("aria-valuetext", `${100 - second} % and ${second} %`);
      slider.style.setProperty("--part", `${(this.part - 0.05) / 0.009}%`);
    };
    show();
    const mix = textButton("Mix", () => this.mix(), { class: "button primary" });
    this.tray.replaceChildren(first, slider, second, mix, close);
  }

  mix() {
    const weights = [1 - this.part, this.part].map((weight) => weight.toFixed(2));
    const inputs = this.pictures.map((picture, index) => ({ ...picture, weight: weights[index] }));
    this.clear();
    this.onmix(inputs);
  }
}
