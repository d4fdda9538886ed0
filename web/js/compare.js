/** The comparison view: a recorded episode beside a dream from one of its moments. */

import { numberOf } from "./address.js";
import { Clock, STEPS_PER_SECOND, TEXT_EVERY } from "./clock.js";
import { byId, colour, fit, line, setPlaying, Sheet, show } from "./draw.js";
import { Dream } from "./dream.js";
import { signed } from "./drive.js";

const DEFAULT_MOMENT = 100; // two seconds: the camera has zoomed in and the car moves
const LEAST = 20; // steps between the latest start of a dream and the end of the episode
const PLOT_SECONDS = 5; // the shortest time axis of the plot

export class Compare {
  /** @param {import("./main.js").World} world */
  constructor(world) {
    this.world = world;
    this.dream = new Dream(world.engine, world.manifest.reward.failure);
    this.clock = new Clock(() => this.advance());
    this.sheets = [];
    const select = byId("episode");
    world.manifest.episodes.forEach(({ driver, score, steps }, i) => {
      const seconds = (steps / STEPS_PER_SECOND).toFixed(0);
      const text = `${i + 1}: ${driver} (${signed(score, 0)} points in ${seconds} s)`;
      select.append(new Option(text, String(i)));
    });
    this.listen();
  }

  listen() {
    const { world } = this;
    byId("episode").addEventListener("change", () => this.open(Number(byId("episode").value)));
    byId("from").addEventListener("input", () => this.begin(Number(byId("from").value)));
    byId("again").addEventListener("click", () => this.begin(this.from));
    byId("compare-play").addEventListener("click", () => this.toggle());
    byId("compare-step").addEventListener("click", () => {
      this.pause();
      this.advance();
    });
    byId("compare-reroll").addEventListener("click", async () => {
      await this.begin(this.from, world.newSeed());
      this.play();
    });
    byId("compare-temperature").addEventListener("input", () => {
      this.setTemperature(Number(byId("compare-temperature").value));
    });
  }

  /** Show an episode with a dream from its row `from`, advanced by `step` steps. */
  async open(index, from = DEFAULT_MOMENT, seed = this.dream.seed, step = 0) {
    this.pause();
    const { manifest, tensors } = this.world;
    const { steps, sheet } = manifest.episodes[index];
    this.index = index;
    this.mu = tensors.rows(`episodes.${index}.mu`);
    this.actions = tensors.rows(`episodes.${index}.actions`);
    this.rewards = tensors.get(`episodes.${index}.rewards`);
    byId("episode").value = String(index);
    byId("from").max = Math.max(steps - LEAST, 0);
    this.sheets[index] ??= await Sheet.load(sheet, manifest.columns);
    if (index !== this.index) return; // another episode was chosen meanwhile
    const isWanted = this.clock.running; // play was pressed while loading
    await this.begin(Math.min(from, steps - LEAST), seed);
    const { version } = this.dream;
    const isSame = () => index === this.index && version === this.dream.version;
    while (this.dream.now < Math.min(step, steps - this.from) && isSame()) await this.advance();
    if (isWanted) this.play();
  }

  /** Start a new dream from row `from` of the episode. */
  async begin(from, seed = this.dream.seed) {
    this.pause();
    const { engine } = this.world;
    this.from = Math.max(0, Math.round(from));
    byId("from").value = this.from;
    byId("from-value").textContent = `${(this.from / STEPS_PER_SECOND).toFixed(1)} s`;
    const wanted = this.from;
    const memory = await engine.memoryAfter(
      this.mu.slice(0, wanted + 1),
      this.actions.slice(0, wanted),
    );
    if (wanted !== this.from) return; // the slider moved meanwhile
    this.dream.begin({ ...memory, z: this.mu[wanted] }, seed, wanted);
    const [image] = await engine.decode([this.mu[wanted]]);
    this.showReal(wanted, image);
    show(byId("imagined-frame"), image);
    this.showReturns();
  }

  get row() {
    return this.from + this.dream.now;
  }

  async advance() {
    if (!this.sheets[this.index]) return; // still loading
    if (this.row >= this.actions.length) {
      this.pause("The recorded episode ends here.");
      return;
    }
    const image = await this.dream.advance((now) => this.actions[this.from + now]);
    if (!image) return;
    const { row } = this;
    const [seen] = await this.world.engine.decode([this.mu[row]]);
    show(byId("imagined-frame"), image);
    this.showReal(row, seen);
    this.showReturns();
  }

  toggle() {
    if (this.clock.running) this.pause("Paused.");
    else if (this.row >= this.actions.length) this.begin(this.from).then(() => this.play());
    else this.play();
  }

  play() {
    this.clock.start();
    setPlaying(byId("compare-play"), true);
  }

  pause(reason = "") {
    this.clock.stop();
    setPlaying(byId("compare-play"), false);
    if (this.dream.moments.length) this.showReturns();
    if (reason) this.world.say(reason);
  }

  setTemperature(value) {
    this.dream.temperature = value;
    byId("compare-temperature").value = value;
    byId("compare-temperature-value").textContent = value.toFixed(2);
  }

  // Drawing

  showReal(row, seen) {
    this.sheets[this.index].show(byId("real-frame"), row);
    show(byId("seen-frame"), seen);
  }

  /** Plot the points since the start of the dream: real solid, imagined dashed. */
  showReturns() {
    let sum = 0;
    const real = [0];
    for (const reward of this.rewards.slice(this.from, this.row)) real.push((sum += reward));
    const imagined = this.dream.moments.slice(0, this.dream.now + 1).map(({ total }) => total);
    const { context, width, height } = fit(byId("returns"));
    const low = Math.min(-5, ...real, ...imagined);
    const high = Math.max(20, ...real, ...imagined);
    const most = this.actions.length - this.from;
    const room = Math.min(most, Math.max(real.length, PLOT_SECONDS * STEPS_PER_SECOND)) + 1;
    const frame = { width, height, low, high };
    line(context, [0, 0], { ...frame, room: 2, stroke: colour("faint") });
    line(context, imagined, { ...frame, room, stroke: colour("accent"), dash: [6, 4] });
    line(context, real, { ...frame, room, stroke: colour("ink") });
    if (this.clock.running && this.dream.now % TEXT_EVERY) return;
    const seconds = (this.dream.now / STEPS_PER_SECOND).toFixed(1);
    const [happened, foreseen] = [real, imagined].map((totals) => signed(totals.at(-1), 1));
    byId("verdict").textContent =
      `Points after ${seconds} s: real ${happened} (solid line), imagined ${foreseen} (dashed)`;
    byId("returns").setAttribute("aria-label", byId("verdict").textContent);
  }

  // The interface of every view

  address() {
    const { seed, temperature, now: step } = this.dream;
    return { view: "compare", episode: this.index, from: this.from, step, seed, temperature };
  }

  async restore(fields) {
    const { episodes } = this.world.manifest;
    const index = Math.floor(numberOf(fields.get("episode"), 0, episodes.length - 1, 0));
    const { steps } = episodes[index];
    const seed = Math.floor(numberOf(fields.get("seed"), 0, 2 ** 32 - 1, this.world.newSeed()));
    this.setTemperature(numberOf(fields.get("temperature"), 0.1, 3, 1));
    const from = numberOf(fields.get("from"), 0, steps - LEAST, DEFAULT_MOMENT);
    await this.open(index, from, seed, numberOf(fields.get("step"), 0, steps, 0));
  }

  keydown(event) {
    const actions = {
      Space: () => this.toggle(),
      Period: () => byId("compare-step").click(),
      KeyN: () => byId("compare-reroll").click(),
    };
    if (event.code in actions && !event.repeat) actions[event.code]();
    return event.code in actions;
  }

  keyup() {}

  suspend() {
    this.pause();
  }

  resume() {
    if (this.mu) this.showReturns();
  }
}
