/** The view of the 32 numbers: a frame, a slider for each number, sweeps and interpolation. */

import { pack, unpack } from "./address.js";
import { Clock, STEPS_PER_SECOND } from "./clock.js";
import { byId, fillStrip, frameCanvas, show } from "./draw.js";
import { normal } from "./noise.js";

const SWEEP_FRAMES = 9;
const SWEEP_SECONDS = 3;
const REACH = 3; // standard deviations of real frames that a slider covers, at least ±3

export class Numbers {
  /** @param {import("./main.js").World} world */
  constructor(world) {
    this.world = world;
    this.canvas = byId("number-frame");
    this.mean = world.tensors.get("latent.mean");
    this.spread = world.tensors.get("latent.spread");
    this.clock = new Clock(() => this.animate());
    this.selected = this.spread.indexOf(Math.max(...this.spread)); // the largest effect
    this.from = 0;
    this.to = 1;
    this.pending = null;
    this.sliders = Array.from(this.mean, (_, i) => this.addSlider(i));
    this.film = Array.from({ length: SWEEP_FRAMES }, (_, i) => this.addSweepFrame(i));
    const { startSheet, starts } = world;
    this.markFrom = fillStrip(byId("mix-from"), startSheet, starts, (i) => this.pickFrom(i));
    this.markTo = fillStrip(byId("mix-to"), startSheet, starts, (i) => this.pickTo(i));
    this.listen();
  }

  listen() {
    byId("random").addEventListener("click", () => this.random());
    byId("reset").addEventListener("click", () => this.pickFrom(this.from));
    byId("mix").addEventListener("input", () => {
      this.stop();
      this.mix(Number(byId("mix").value) / 100);
    });
    byId("sweep-play").addEventListener("click", () => this.play("sweep"));
    byId("mix-play").addEventListener("click", () => this.play("mix"));
  }

  /** The range of slider i. */
  range(i) {
    const reach = Math.max(REACH, Math.abs(this.mean[i]) + REACH * this.spread[i]);
    return { low: -reach, high: reach };
  }

  addSlider(i) {
    const { low, high } = this.range(i);
    const label = document.createElement("label");
    const [name, value] = [document.createElement("span"), document.createElement("output")];
    const slider = document.createElement("input");
    name.textContent = String(i + 1);
    Object.assign(slider, { type: "range", min: low, max: high, step: 0.01 });
    slider.setAttribute("aria-label", `Number ${i + 1}`);
    // The band that contains most real frames.
    const place = (x) => `${(100 * (x - low)) / (high - low)}%`;
    label.style.setProperty("--band-from", place(this.mean[i] - 2 * this.spread[i]));
    label.style.setProperty("--band-to", place(this.mean[i] + 2 * this.spread[i]));
    slider.addEventListener("input", () => {
      this.stop();
      this.z[i] = Number(slider.value);
      this.refresh();
    });
    slider.addEventListener("focus", () => this.select(i));
    label.append(name, value, slider);
    byId("sliders").append(label);
    return { label, slider, value };
  }

  addSweepFrame(k) {
    const button = document.createElement("button");
    const canvas = frameCanvas();
    button.setAttribute("aria-label", `Step ${k + 1} of the sweep`);
    button.append(canvas);
    button.addEventListener("click", () => {
      this.stop();
      this.z[this.selected] = this.sweepValue(k / (SWEEP_FRAMES - 1));
      this.refresh();
    });
    byId("filmstrip").append(button);
    return { button, canvas };
  }

  sweepValue(share) {
    const { low, high } = this.range(this.selected);
    return low + share * (high - low);
  }

  // Changing the numbers

  set(z) {
    this.z = Float32Array.from(z);
    return this.refresh();
  }

  pickFrom(index) {
    this.stop();
    this.from = index;
    this.markFrom(index);
    this.showMix(0);
    return this.set(this.world.starts[index].state.z);
  }

  pickTo(index) {
    this.stop();
    this.to = index;
    this.markTo(index);
    this.mix(Number(byId("mix").value) / 100 || 1);
  }

  mix(share) {
    const [a, b] = [this.from, this.to].map((i) => this.world.starts[i].state.z);
    this.showMix(share);
    return this.set(a.map((x, i) => x + share * (b[i] - x)));
  }

  random() {
    this.stop();
    return this.set(this.mean.map((m, i) => m + this.spread[i] * normal(Math.random)));
  }

  select(i) {
    this.selected = i;
    this.sliders.forEach(({ label }, k) => label.classList.toggle("selected", k === i));
    byId("sweep-title").textContent = `Number ${i + 1}`;
    this.refresh();
  }

  // Animations: one period of a sweep, or one interpolation from frame to frame

  play(what) {
    const isNew = this.playing !== what;
    this.stop();
    if (!isNew) return;
    this.playing = what;
    this.steps = 0;
    this.before = this.z?.[this.selected];
    byId(`${what}-play`).textContent = "Stop";
    this.clock.start();
  }

  stop() {
    this.clock.stop();
    this.playing = null;
    byId("sweep-play").textContent = "Sweep";
    byId("mix-play").textContent = "Morph";
  }

  async animate() {
    const share = ++this.steps / (SWEEP_SECONDS * STEPS_PER_SECOND);
    if (this.playing === "mix") await this.mix(Math.min(share, 1));
    if (this.playing === "sweep") {
      this.z[this.selected] = this.sweepValue((1 - Math.cos(2 * Math.PI * share)) / 2);
      if (share >= 1) this.z[this.selected] = this.before;
      await this.refresh();
    }
    if (share >= 1) this.stop();
  }

  // Drawing

  /** Draw the picture and, when idle, the sweep of the selected number. */
  async refresh() {
    this.sliders.forEach(({ slider, value }, i) => {
      slider.value = this.z[i];
      value.textContent = this.z[i].toFixed(1).replace("-", "−");
    });
    const isBusy = this.pending !== null;
    this.pending = this.z;
    if (isBusy) return;
    while (this.pending) {
      const z = this.pending.slice();
      this.pending = null;
      const [image] = await this.world.engine.decode([z]);
      show(this.canvas, image);
      if (!this.pending && !this.playing) await this.showSweep(z);
    }
  }

  async showSweep(z) {
    const shares = this.film.map((_, k) => k / (SWEEP_FRAMES - 1));
    const swept = shares.map((share) => {
      const one = z.slice();
      one[this.selected] = this.sweepValue(share);
      return one;
    });
    const images = await this.world.engine.decode(swept);
    const nearest = Math.round(
      ((z[this.selected] - this.sweepValue(0)) / (this.sweepValue(1) - this.sweepValue(0))) *
        (SWEEP_FRAMES - 1),
    );
    this.film.forEach(({ button, canvas }, k) => {
      show(canvas, images[k]);
      const value = this.sweepValue(shares[k]).toFixed(1).replace("-", "−");
      button.setAttribute("aria-label", `Number ${this.selected + 1} at ${value}`);
      button.setAttribute("aria-pressed", String(k === nearest));
    });
  }

  showMix(share) {
    byId("mix").value = Math.round(100 * share);
    byId("mix-value").textContent = `${Math.round(100 * share)}%`;
  }

  // The interface of every view

  address() {
    return { view: "numbers", start: this.from, number: this.selected + 1, z: pack(this.z) };
  }

  async restore(fields) {
    const { starts } = this.world;
    const index = Number(fields.get("start"));
    this.markTo(this.to);
    const number = Number(fields.get("number") ?? this.selected + 1);
    this.selected = Math.max(0, Math.min(Math.round(number) - 1 || 0, this.mean.length - 1));
    this.from = Number.isInteger(index) && starts[index] ? index : 0;
    this.markFrom(this.from);
    this.showMix(0);
    const shared = fields.has("z") ? unpack(fields.get("z"), this.mean.length) : null;
    this.z = Float32Array.from(shared ?? starts[this.from].state.z);
    this.select(this.selected);
  }

  keydown() {
    return false;
  }

  keyup() {}

  suspend() {
    this.stop();
  }

  resume() {}
}
