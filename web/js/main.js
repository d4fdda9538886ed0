/**
 * Load the dream and switch between the three views of the page.
 *
 * @typedef {object} World what all views share
 * @property {any} manifest dream.json
 * @property {import("./float16.js").Tensors} tensors
 * @property {Engine} engine
 * @property {{name: string, state: import("./model.js").State}[]} starts
 * @property {Sheet} startSheet
 * @property {string} agent the agent's name in addresses
 * @property {(text: string) => void} say
 * @property {(text: string) => void} announce to screen readers only
 * @property {() => number} newSeed
 */

import { readAddress, writeAddress } from "./address.js";
import { STEPS_PER_SECOND } from "./clock.js";
import { Compare } from "./compare.js";
import { byId, Sheet } from "./draw.js";
import { Drive } from "./drive.js";
import { Engine } from "./engine.js";
import { Tensors } from "./float16.js";
import { Numbers } from "./numbers.js";

const NAMES = ["drive", "numbers", "compare"];

/** @returns {Promise<World>} */
async function load() {
  const manifest = await (await get("dream.json")).json();
  const buffer = await download(manifest.weights, manifest.bytes[manifest.weights]);
  const tensors = new Tensors(manifest.tensors, buffer.slice(0));
  const engine = new Engine();
  const [startSheet] = await Promise.all([
    Sheet.load(manifest.starts.sheet, manifest.columns),
    engine.load(manifest, buffer),
  ]);
  const [z, hidden, cell] = ["z", "hidden", "cell"].map((name) => tensors.rows(`starts.${name}`));
  const starts = manifest.starts.moments.map(({ driver, row }, i) => ({
    name: `${driver}, after ${(row / STEPS_PER_SECOND).toFixed(1)} seconds`,
    state: { z: z[i], hidden: hidden[i], cell: cell[i] },
  }));
  const agent = Object.values(manifest.agent).map((sha256) => sha256.slice(0, 4)).join("");
  const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0];
  return { manifest, tensors, engine, starts, startSheet, agent, say, announce, newSeed };
}

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
}

/** Fetch a large file and show the progress. */
async function download(url, size) {
  const bar = byId("loading").querySelector("progress");
  const reader = (await get(url)).body.getReader();
  const bytes = new Uint8Array(size);
  let received = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    bytes.set(value, received);
    received += value.length;
    bar.value = received / size;
  }
  if (received !== size) throw new Error(`${url} is incomplete`);
  return bytes.buffer;
}

function announce(text) {
  byId("status").textContent = text;
}

let hiding = 0;

/** Announce a text and show it for four seconds. */
function say(text) {
  announce(text);
  byId("status").classList.add("shown");
  clearTimeout(hiding);
  hiding = setTimeout(() => byId("status").classList.remove("shown"), 4000);
}

class Page {
  /** @param {World} world */
  constructor(world) {
    this.world = world;
    this.views = { drive: new Drive(world), numbers: new Numbers(world), compare: new Compare(world) };
    this.opened = new Set();
    byId("agent").textContent = world.agent;
    this.listen();
  }

  get view() {
    return this.views[this.name];
  }

  /** Show a view. The first time, it is set up from the fields of the address. */
  async open(name, fields = new URLSearchParams()) {
    if (this.name && this.name !== name) this.view.suspend();
    this.name = name;
    for (const other of NAMES) {
      const tab = byId(`tab-${other}`);
      byId(other).hidden = other !== name;
      tab.setAttribute("aria-selected", String(other === name));
      tab.tabIndex = other === name ? 0 : -1;
    }
    if (this.opened.has(name) && !fields.size) return this.view.resume();
    this.opened.add(name);
    await this.view.restore(fields);
  }

  /** Show the view that the address names. */
  follow() {
    const fields = readAddress();
    const name = fields.get("view");
    return this.open(NAMES.includes(name) ? name : "drive", fields);
  }

  listen() {
    window.addEventListener("hashchange", () => this.follow());
    window.addEventListener("keydown", (event) => this.keydown(event));
    window.addEventListener("keyup", (event) => this.view.keyup(event));
    for (const name of NAMES) byId(`tab-${name}`).addEventListener("click", () => this.open(name));
    byId("tab-drive").addEventListener("pointerup", () => setTimeout(() => byId("stage").focus()));
    document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!move) return;
      const next = NAMES[(NAMES.indexOf(this.name) + move + NAMES.length) % NAMES.length];
      this.open(next);
      byId(`tab-${next}`).focus();
    });
    // After a click on a slider or button, the arrow keys steer the car again.
    byId("drive").addEventListener("pointerup", () => setTimeout(() => byId("stage").focus()));
    byId("share").disabled = false;
    byId("share").addEventListener("click", () => this.share());
    byId("about-open").addEventListener("click", () => byId("about").showModal());
  }

  /** Pass keys to the view, unless the focused element uses them. */
  keydown(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("about").open) return;
    if (event.code === "Escape") return byId("stage").focus();
    const isArrow = event.code.startsWith("Arrow");
    const isPress = event.code === "Space" || event.code === "Enter";
    const { target } = event;
    if (isArrow && target.matches("input, select, [role=tab]")) return;
    if (isPress && target.matches("button, select, a")) return;
    if (this.view.keydown(event)) event.preventDefault();
  }

  async share() {
    const address = writeAddress(this.view.address());
    try {
      await navigator.clipboard.writeText(address);
      say("Copied: the address of this moment.");
    } catch {
      say("Copy the address of this moment from the address bar.");
    }
  }
}

const loading = byId("loading");
loading.querySelector("span").textContent = "Loading the dream …";
loading.querySelector("progress").hidden = false;
try {
  const page = new Page(await load());
  loading.hidden = true;
  document.querySelector("main").hidden = false;
  await page.follow();
} catch (error) {
  loading.querySelector("span").textContent = `This dream cannot be loaded: ${error.message}`;
  throw error;
}
