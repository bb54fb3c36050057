/** The picture to vary: dropped, pasted, picked, photographed, or one of the samples. */

import { announce, element, find } from "./dom.js";

/** Drawings of the built-in model's world, of scenes that it was not trained on. */
const SAMPLES = {
  heart: "three lime hearts",
  star: "two cyan stars",
  ring: "an orange ring",
  circle: "three red circles",
  stars: "four yellow stars",
  triangle: "two orange triangles",
};

export class Chooser {
  /** `onchange(picture)` is called with `{blob, name, label, url}`. */
  constructor(onchange) {
    this.picture = null;
    this.choosing = null; // fulfilled once a drawing that was clicked has come
    this.onchange = onchange;
    for (const input of [find("#file"), find("#camera")]) {
      input.addEventListener("change", () => {
        if (input.files[0]) this.choose(input.files[0], input.files[0].name);
        input.value = ""; // so that the same file can be chosen again
      });
    }
    document.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      if (!file) return;
      event.preventDefault();
      this.choose(file, file.name);
    });
    this.takeDrops();
    find("#chosen").addEventListener("error", () => this.seen(false));
    find("#chosen").addEventListener("load", () => this.seen(true));
  }

  takeDrops() {
    const veil = find("#veil");
    const over = (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      veil.hidden = false;
    };
    document.addEventListener("dragenter", over);
    document.addEventListener("dragover", over);
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) veil.hidden = true; // out of the window
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      veil.hidden = true;
      const [file] = event.dataTransfer.files;
      if (file) this.choose(file, file.name);
    });
  }

  /** What suits the built-in model, and what that is. */
  offerSamples() {
    const list = find("#sample-list");
    const buttons = Object.entries(SAMPLES).map(([name, words]) => {
      const url = `page/samples/${name}.png`;
      const picture = element("img", { src: url, alt: "", width: 96, height: 96 });
      const take = async () => this.choose(await (await fetch(url)).blob(), `${name}.png`, words);
      const onclick = () => { this.choosing = take().catch(() => {}); };
      const attributes = { type: "button", class: "sample", "aria-label": words, title: words };
      return element("button", { ...attributes, onclick }, picture);
    });
    list.replaceChildren(...buttons);
    find("#samples").hidden = false;
    find("#notice").hidden = false;
  }

  choose(blob, name, label = name) {
    const url = URL.createObjectURL(blob); // not revoked: requests go on showing it
    this.picture = { blob, name, label, url };
    find("#chosen").src = url;
    find("#chosen").alt = `The chosen picture: ${label}`;
    find("#chosen-name").textContent = label;
    find(".zone-title").textContent = "Choose another";
    find(".chosen").hidden = false;
    find("#chooser").classList.add("full");
    announce(`Chosen: ${label}`);
    this.onchange(this.picture);
  }

  seen(visible) {
    find("#chosen").hidden = !visible;
    find(".unseen").hidden = visible;
  }
}
