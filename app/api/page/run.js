/** One request and what comes of it: a card with its state and a tile for each picture. */

import { announce, copy, element, find, icon, iconButton, inWords, textButton } from "./dom.js";
import { Problem, vary } from "./service.js";

let runs = 0;

export class Run {
  /**
   * `inputs` are pictures `{blob, name, label, url, weight}`, `fields` those of the form. `actions` has
   * `vary(picture)`, `mix(picture)` where two pictures can be mixed, `show(run, index)`,
   * `key()`, and `refused(problem)`.
   */
  constructor(inputs, fields, url, actions) {
    Object.assign(this, { inputs, fields, url, actions });
    this.number = ++runs;
    this.name = inputs.map((input) => input.label).join(" with ");
    this.pictures = [];
    this.tiles = Array.from({ length: Number(fields.n) }, (_, index) => this.tile(index));
    this.card = this.layOut();
  }

  layOut() {
    const id = `run-${this.number}`;
    this.status = element("p", { class: "status" }, "Sending…");
    this.stop = textButton("Cancel", () => this.cancel(), { class: "button quiet" });
    this.remove = iconButton("close", "Remove", () => this.leave(), { hidden: true });
    const thumbs = this.inputs.map(({ url }) => imageOf(url, ""));
    const n = this.tiles.length;
    const title = `${n === 1 ? "A variation" : `${n} variations`} of ${this.name}`;
    return element(
      "article",
      { class: "run", id, "aria-labelledby": `${id}-title`, "data-state": "waiting" },
      element(
        "header",
        {},
        element("div", { class: "thumbs" }, ...thumbs),
        element("div", { class: "words" }, element("h3", { id: `${id}-title` }, title), this.status),
        this.stop,
        this.remove,
      ),
      element("ul", { class: "tiles" }, ...this.tiles.map((tile) => tile.item)),
    );
  }

  tile(index) {
    const progress = element("progress", {
      max: 1, value: 0, "aria-label": `Picture ${index + 1}`,
    });
    const frame = element("div", { class: "frame" }, progress);
    frame.style.aspectRatio = `${this.fields.width} / ${this.fields.height}`;
    const item = element("li", { class: "tile", "data-state": "waiting" }, frame);
    return { item, frame, progress, preview: null };
  }

  /** Post it and follow it to its end; nothing is thrown. */
  async start() {
    this.aborter = new AbortController();
    try {
      for await (const { event, data } of vary(
        this.url, this.form(), this.actions.key(), this.aborter.signal,
      )) {
        this[event]?.(data);
      }
    } catch (error) {
      if (this.aborter.signal.aborted) this.cancelled();
      else this.failed(error);
    } finally {
      clearInterval(this.clock);
      const focused = document.activeElement === this.stop;
      this.remove.hidden = false;
      this.stop.hidden = true;
      if (focused) this.remove.focus();
    }
  }

  form() {
    const form = new FormData();
    for (const { blob, name, weight } of this.inputs) {
      form.append("image", blob, name);
      if (weight !== undefined) form.append("weight", weight);
    }
    for (const [name, value] of Object.entries(this.fields)) form.append(name, value);
    return form;
  }

  cancel() {
    this.aborter.abort();
  }

  leave() {
    this.card.remove(); // its pictures' addresses are not revoked: requests made of them show them
    (find("article.run button:not([hidden])") ?? find("#results")).focus();
  }

  // What the service tells, by the names of its events

  queued({ position, start_in: startIn }) {
    const before = position === 1 ? "1 request is before it" : `${position} requests are before it`;
    const place = position ? `Queued: ${before}` : "Next in the queue";
    const starts = Date.now() + 1000 * startIn;
    const tell = () => {
      const left = Math.max(0, (starts - Date.now()) / 1000);
      this.status.textContent = `${place}, starts in ${inWords(left)}`;
    };
    clearInterval(this.clock);
    this.clock = setInterval(tell, 1000);
    tell();
    announce(this.status.textContent);
  }

  step({ done, of, finish_in: finishIn }) {
    if (this.card.dataset.state !== "running") announce("The pictures are being made");
    clearInterval(this.clock);
    this.card.dataset.state = "running";
    this.status.textContent = `Step ${Math.min(...done)} of ${of}, ready in ${inWords(finishIn)}`;
    done.forEach((steps, index) => {
      const { item, progress } = this.tiles[index];
      progress.value = steps / of;
      if (item.dataset.state === "waiting") item.dataset.state = "running";
    });
  }

  preview({ index, b64_json: data, media_type: type }) {
    const tile = this.tiles[index];
    if (!tile.preview) {
      tile.preview = element("img", { class: "preview", alt: "" });
      tile.frame.prepend(tile.preview);
    }
    tile.preview.src = `data:${type};base64,${data}`;
  }

  picture({ index, seed, flagged, b64_json: data, media_type: type, near_duplicate: near }) {
    const tile = this.tiles[index];
    tile.progress.remove();
    tile.item.dataset.state = flagged ? "flagged" : "done";
    if (flagged) {
      tile.frame.replaceChildren(
        icon("shield"),
        element("p", {}, "The safety checker stopped this picture; another seed makes another."),
      );
    } else {
      const blob = new Blob([bytes(data)], { type });
      const name = `variation-${seed}.${type.split("/")[1]}`;
      const label = `variation ${seed}`;
      this.pictures[index] = { blob, name, label, seed, url: URL.createObjectURL(blob) };
      this.showPicture(tile, index);
      if (near) tile.frame.append(element("p", { class: "badge" }, "Close to a training picture"));
    }
    const there = this.tiles.filter(({ item }) => /done|flagged/.test(item.dataset.state)).length;
    announce(`${there} of ${this.tiles.length} pictures are there`);
  }

  restarted() {
    this.status.textContent = "Its worker ended; another one makes the pictures again";
    announce(this.status.textContent);
  }

  done({ timings, parameters }) {
    this.card.dataset.state = "done";
    const { guidance_scale: guidance, num_inference_steps: steps, scheduler, seed } = parameters;
    this.status.textContent =
      `Done in ${timings.total.toFixed(1)} s · guidance ${guidance} · ${steps} steps · ` +
      `${scheduler} · seed ${seed}`;
    announce(`Done: ${this.tiles.length} pictures`);
  }

  cancelled() {
    this.end("cancelled");
    this.status.textContent = "Cancelled";
    announce("Cancelled");
  }

  failed(error) {
    this.end("failed");
    const problem = error instanceof Problem ? error : new Problem({
      title: "This page has met an error of its own", detail: String(error),
    });
    const { title, detail, retryAfter, requestId } = problem;
    const later = retryAfter ? ` It may be taken in ${inWords(retryAfter)}.` : "";
    this.status.textContent = title;
    this.card.append(
      element(
        "div",
        { class: "problem", role: "alert" },
        element("p", {}, detail + later),
        requestId ? element("p", { class: "hint" }, `Request ${requestId}`) : null,
        isWorthAnotherTry(problem) ? textButton("Try again", () => this.again()) : null,
      ),
    );
    this.actions.refused(problem);
  }

  /** The pictures that are there stay; the others are not to come. */
  end(state) {
    this.card.dataset.state = state;
    for (const { item } of this.tiles) {
      if (item.dataset.state === "waiting" || item.dataset.state === "running") item.remove();
    }
  }

  again() {
    const next = new Run(this.inputs, this.fields, this.url, this.actions);
    this.card.replaceWith(next.card);
    next.stop.focus();
    next.start();
  }

  showPicture(tile, index) {
    const picture = this.pictures[index];
    const alt = `Variation ${index + 1} of ${this.name}, seed ${picture.seed}`;
    const image = element("img", { class: "picture", src: picture.url, alt });
    const open = element(
      "button",
      { type: "button", class: "open", title: "Compare with the input",
        onclick: () => this.actions.show(this, index) },
      image,
      element("span", { class: "unseen-but-heard" }, ". Compare with the input"),
    );
    tile.frame.append(open);
    tile.item.append(element("div", { class: "tools" }, ...tools(picture, this.actions)));
  }
}

/** What can be done with a picture. */
export function tools(picture, actions) {
  const { url, name, seed } = picture;
  const save = element(
    "a",
    { class: "tool", href: url, download: name, "aria-label": "Download", title: "Download" },
    icon("download"),
  );
  const seedButton = iconButton("seed", `Copy seed ${seed}`, async () => {
    await copy(String(seed));
    announce(`Seed ${seed} is copied`);
    seedButton.classList.add("well");
    setTimeout(() => seedButton.classList.remove("well"), 1200);
  });
  const again = iconButton("again", "Vary this one again", () => actions.vary(picture));
  const mix = actions.mix && iconButton("mix", "Add to a mix", () => actions.mix(picture));
  return [save, seedButton, again, mix];
}

/** An image that is left out where the browser cannot show it, as a TIFF. */
export function imageOf(url, alt) {
  return element("img", { src: url, alt, onerror: ({ target }) => target.remove() });
}

/** The request was not at fault, or will be taken with another key; and the service has not refused
 * it for good, as what it could never do in time.
 */
function isWorthAnotherTry({ status, requestId, retryAfter }) {
  if ([429, 503].includes(status) && requestId && retryAfter === null) return false;
  return status < 400 || status >= 500 || [401, 408, 429].includes(status);
}

function bytes(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
