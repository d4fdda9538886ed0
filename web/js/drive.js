/** The driving view: the dream, the instruments and the time line. */

import { numberOf, pack, unpack } from "./address.js";
import { Clock, STEPS_PER_SECOND, TEXT_EVERY } from "./clock.js";
import { Controls } from "./controls.js";
import { byId, colour, fillStrip, fit, line, setPlaying, show } from "./draw.js";
import { Dream } from "./dream.js";

const SPARK_STEPS = 150; // three seconds
const LOST = 0.2; // survival below which a note is shown

export class Drive {
  /** @param {import("./main.js").World} world */
  constructor(world) {
    this.world = world;
    this.dream = new Dream(world.engine, world.manifest.reward.failure);
    this.byAgent = true;
    this.rewinding = false;
    this.canvas = byId("dream-frame");
    this.clock = new Clock(() => this.tick());
    this.controls = new Controls(document.querySelectorAll("[data-pad]"), () => this.take());
    this.markStart = fillStrip(byId("starts"), world.startSheet, world.starts, (index) => {
      this.begin(index, world.newSeed());
      this.play();
      byId("stage").focus();
    });
    this.listen();
  }

  listen() {
    const click = (id, action) => byId(id).addEventListener("click", action);
    click("first", () => this.seek(0));
    click("play", () => this.toggle());
    click("step", () => this.stepOn());
    click("by-agent", () => this.giveBack());
    click("by-you", () => this.take());
    click("reroll", () => this.reroll());
    const rewind = byId("rewind");
    rewind.addEventListener("pointerdown", () => this.rewind(true));
    for (const type of ["pointerup", "pointerleave", "pointercancel"]) {
      rewind.addEventListener(type, () => this.rewind(false));
    }
    // By keyboard, a press goes back half a second.
    rewind.addEventListener("click", (event) => {
      if (event.detail === 0) this.seek(this.dream.now - STEPS_PER_SECOND / 2);
    });
    window.addEventListener("blur", () => this.letGo());
    byId("time").addEventListener("input", () => this.seek(Number(byId("time").value)));
    byId("temperature").addEventListener("input", () => {
      this.setTemperature(Number(byId("temperature").value));
    });
  }

  // Driving

  take() {
    if (this.byAgent) {
      this.byAgent = false;
      this.controls.takeOver(this.dream.moment.action);
      this.showDriver();
      this.world.announce("You drive.");
    }
    if (!this.clock.running && !this.rewinding) this.play();
  }

  giveBack() {
    this.byAgent = true;
    this.showDriver();
    this.world.announce("The agent drives.");
  }

  keydown(event) {
    if (this.controls.keydown(event)) return true;
    const actions = {
      Space: () => this.toggle(),
      Period: () => this.stepOn(),
      Comma: () => this.seek(this.dream.now - 1),
      KeyG: () => this.giveBack(),
      KeyN: () => this.reroll(),
      KeyR: () => this.rewind(true),
    };
    if (event.code in actions && !event.repeat) actions[event.code]();
    return event.code in actions;
  }

  keyup(event) {
    this.controls.keyup(event);
    if (event.code === "KeyR") this.rewind(false);
  }

  /** Release every key and pad. */
  letGo() {
    this.controls.release();
    this.rewind(false);
  }

  // Time

  /** Start from a real frame, or from a shared state. */
  begin(index, seed, shared = null) {
    this.start = index;
    if (shared) this.dream.begin(shared.state, seed, shared.step, shared);
    else this.dream.begin(this.world.starts[index].state, seed);
    this.markStart(index);
    return this.refresh();
  }

  async tick() {
    if (this.rewinding) {
      this.dream.seek(this.dream.now - 1);
      return this.refresh();
    }
    this.controls.poll();
    if (this.dream.isFull) this.pause("A dream ends after ten minutes.");
    else await this.advance();
  }

  async advance() {
    const image = await this.dream.advance(() => (this.byAgent ? null : this.controls.read()));
    if (!image) return;
    show(this.canvas, image);
    this.showMoment(!this.clock.running || this.dream.now % TEXT_EVERY === 0);
  }

  /** Redraw the current moment after a jump. */
  async refresh() {
    const { moment } = this.dream;
    const [image] = await this.world.engine.decode([moment.state.z]);
    if (moment === this.dream.moment) show(this.canvas, image);
    this.showMoment(true);
  }

  seek(index) {
    if (!this.rewinding) this.pause();
    this.dream.seek(Math.round(index));
    return this.refresh();
  }

  async stepOn() {
    this.pause();
    await this.advance();
  }

  rewind(isHeld) {
    if (isHeld === this.rewinding) return;
    this.rewinding = isHeld;
    if (isHeld) this.clock.start();
    else this.pause();
  }

  reroll() {
    this.dream.reroll(this.world.newSeed());
    this.world.say("Another future from here on.");
    this.play();
  }

  toggle() {
    if (this.clock.running) this.pause("Paused.");
    else this.play();
  }

  play() {
    this.clock.start();
    setPlaying(byId("play"), true);
  }

  pause(reason = "") {
    this.clock.stop();
    setPlaying(byId("play"), false);
    if (this.dream.moment) this.showMoment(true);
    if (reason) this.world.say(reason);
  }

  setTemperature(value) {
    this.dream.temperature = value;
    byId("temperature").value = value;
    byId("temperature-value").textContent = value.toFixed(2);
  }

  // Drawing

  showDriver() {
    byId("by-agent").setAttribute("aria-pressed", String(this.byAgent));
    byId("by-you").setAttribute("aria-pressed", String(!this.byAgent));
    byId("who").textContent = this.byAgent ? "The agent drives" : "You drive";
  }

  /** Update the bars, and the figures if `withFigures`. */
  showMoment(withFigures) {
    const { moment, now, moments, firstStep } = this.dream;
    const [steer, gas, brake] = moment.action;
    const time = byId("time");
    time.max = moments.length - 1;
    time.value = now;
    setBar("survival-bar", moment.survival);
    setBar("steer-bar", steer);
    setBar("gas-bar", gas);
    setBar("brake-bar", brake);
    this.showSpark();
    if (!withFigures) return;
    const side = Math.abs(steer) < 0.05 ? "" : steer < 0 ? " ←" : " →";
    byId("reward").textContent = signed(moment.reward, 2);
    byId("total").textContent = signed(moment.total, 1);
    byId("survival").textContent = percent(moment.survival);
    byId("steer").textContent = Math.abs(steer).toFixed(2) + side;
    byId("gas").textContent = gas.toFixed(2);
    byId("brake").textContent = brake.toFixed(2);
    const seconds = ((firstStep + now) / STEPS_PER_SECOND).toFixed(1);
    byId("clock").textContent = `${seconds} s`;
    time.setAttribute("aria-valuetext", `${seconds} seconds`);
    byId("lost").hidden = moment.survival > LOST;
    byId("rate").textContent = `now ${Math.round(this.clock.rate)} a second`;
  }

  /** Plot the rewards of the last three seconds above a zero line. */
  showSpark() {
    const { context, width, height } = fit(byId("spark"));
    const { moments, now } = this.dream;
    const recent = moments.slice(Math.max(1, now + 1 - SPARK_STEPS), now + 1);
    const frame = { width, height, room: SPARK_STEPS, low: -0.5, high: 2 };
    line(context, [0, 0], { ...frame, room: 2, stroke: colour("faint") });
    const rewards = recent.map(({ reward }) => reward);
    line(context, rewards, { ...frame, stroke: colour("accent") });
  }

  // Addresses

  address() {
    const { moment, seed, step, temperature } = this.dream;
    const fields = { view: "drive", start: this.start, seed, temperature };
    if (step === 0) return fields;
    const { z, hidden, cell } = moment.state;
    return {
      ...fields,
      step,
      survival: moment.survival.toFixed(4),
      total: moment.total.toFixed(2),
      agent: this.world.agent,
      state: pack([...z, ...hidden, ...cell]),
    };
  }

  /** Restore the moment of an address, paused. Missing fields have defaults. */
  async restore(fields) {
    const { starts } = this.world;
    const seed = numberOf(fields.get("seed"), 0, 2 ** 32 - 1, this.world.newSeed());
    const start = Math.floor(numberOf(fields.get("start"), 0, starts.length - 1, 0));
    this.setTemperature(numberOf(fields.get("temperature"), 0.1, 3, 1));
    this.byAgent = true;
    this.showDriver();
    this.pause(); // otherwise the running dream would advance the new one
    await this.begin(start, Math.floor(seed), this.sharedMoment(fields));
    if (fields.has("start")) this.pause("A shared moment. Press play, or drive on.");
    else if (!matchMedia("(prefers-reduced-motion: reduce)").matches) this.play();
  }

  sharedMoment(fields) {
    if (!fields.has("state")) return null;
    const { latent, hidden } = this.world.manifest.sizes;
    const numbers = unpack(fields.get("state"), latent + 2 * hidden);
    if (!numbers || fields.get("agent") !== this.world.agent) {
      this.world.say("That moment is another agent's. This is the frame it started from.");
      return null;
    }
    return {
      state: {
        z: numbers.slice(0, latent),
        hidden: numbers.slice(latent, latent + hidden),
        cell: numbers.slice(latent + hidden),
      },
      step: Math.floor(numberOf(fields.get("step"), 0, 2 ** 31, 0)),
      survival: numberOf(fields.get("survival"), 0, 1, 1),
      total: numberOf(fields.get("total"), -1e6, 1e6, 0),
    };
  }

  suspend() {
    this.letGo(); // another view receives the keyup events from now on
    this.wasRunning = this.clock.running;
    this.clock.stop();
  }

  resume() {
    if (this.wasRunning) this.clock.start();
  }
}

function setBar(id, value) {
  byId(id).style.setProperty("--value", value);
}

/** A number that always shows its sign, with a true minus. */
export const signed = (value, digits) =>
  (value < 0 ? "−" : "+") + Math.abs(value).toFixed(digits);

/** A probability; small ones and near-certain ones keep a digit more. */
const percent = (value) => `${(100 * value).toFixed(value > 0.995 || value < 0.1 ? 1 : 0)}%`;
