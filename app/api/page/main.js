/** The page: what is chosen and set becomes requests, whose pictures can be varied and mixed. */

import { Chooser } from "./chooser.js";
import { announce, element, find } from "./dom.js";
import { Mixer } from "./mixer.js";
import { Run } from "./run.js";
import { about, readiness } from "./service.js";
import { Settings } from "./settings.js";
import { Viewer } from "./viewer.js";

const BUILT_IN = "demo";
const KEY = "variations-api-key";
const LOOK_AGAIN_MS = 1000;

let service = null;
const form = find("#form");
const settings = new Settings(form);
const chooser = new Chooser(() => complain(""));
const actions = { vary: (picture) => start([picture]), key, refused, show };
const viewer = new Viewer(actions);
const mixer = new Mixer(start);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  await chooser.choosing;
  if (!chooser.picture) {
    complain("Choose a picture first.");
    find("#file").focus();
  } else {
    start([chooser.picture]);
  }
});
find("#key").addEventListener("input", () => sessionStorage.setItem(KEY, key()));
find("#mix-chosen").addEventListener("click", () => {
  if (chooser.picture) mixer.add(chooser.picture);
  else complain("Choose a picture first.");
});
connect();

/** Wait for the service's model, then offer what it offers. */
async function connect() {
  for (;;) {
    try {
      service = await about();
      if (service.model) break;
      const { reason, fraction } = await readiness(service.links.readiness);
      const percent = fraction === null ? "" : ` (${Math.round(100 * fraction)} %)`;
      tell("waiting", `Starting: ${reason}${percent}`);
    } catch (error) {
      tell("gone", error.title ?? "The service cannot be reached");
    }
    await new Promise((resolve) => { setTimeout(resolve, LOOK_AGAIN_MS); });
  }
  offer();
}

function offer() {
  const { model, limits, needs_key: needsKey } = service;
  const name = model.id === BUILT_IN ? "built-in model" : model.id;
  tell("ready", name, ` on ${model.device}`);
  settings.fill(service);
  if (model.id === BUILT_IN) chooser.offerSamples();
  if ((limits.image?.maximum ?? 1) > 1) {
    actions.mix = (picture) => mixer.add(picture);
    find("#mix-chosen").hidden = false;
  }
  find("#key-field").hidden = !needsKey;
  find("#key").value = sessionStorage.getItem(KEY) ?? "";
  find("#go").disabled = false;
}

function start(inputs) {
  const bytes = inputs.reduce((sum, { blob }) => sum + blob.size, 0);
  if (bytes > service.max_upload_bytes) {
    complain(`That is ${inMegabytes(bytes)}; at most ${inMegabytes(service.max_upload_bytes)} are taken.`);
    return;
  }
  if (!find("#key-field").hidden && !isKey()) return;
  complain("");
  const fields = settings.fields();
  if (inputs.length > 1) delete fields.strength; // which picture's layout would it keep?
  const run = new Run(inputs, fields, service.links.variations, actions);
  find("#empty").hidden = true;
  find("#results-title").after(run.card);
  const block = matchMedia("(max-width: 860px)").matches ? "start" : "nearest";
  run.card.scrollIntoView({ block, behavior: "instant" });
  run.start();
}

function show(run, index) {
  viewer.show(run, index);
}

function refused(problem) {
  if (problem.status !== 401) return;
  find("#key-field").hidden = false;
  complain(problem.detail);
  find("#key").focus();
}

function key() {
  return find("#key").value.trim();
}

/** Whether the key could be one; browsers send no other letters, and would not say why. */
function isKey() {
  if (/^[\x21-\x7e]+$/.test(key())) return true;
  complain(key() ? "A key is of letters, digits and signs of ASCII." : "An API key is needed.");
  find("#key").focus();
  return false;
}

function complain(words) {
  find("#complaint").textContent = words;
}

/** What the service is doing; `more` is left out where there is little room. */
function tell(state, words, more = "") {
  const chip = find("#model");
  if (chip.textContent === words + more) return;
  chip.replaceChildren(words, element("span", {}, more));
  chip.dataset.state = state;
  announce(words + more);
}

function inMegabytes(bytes) {
  return `${(bytes / 2 ** 20).toFixed(1)} MB`;
}
