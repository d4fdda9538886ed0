/** The environment's own rate: a step is 1/50 s. */
export const STEPS_PER_SECOND = 50;

/** Steps between updates of the figures: at fifty a second they would be unreadable. */
export const TEXT_EVERY = 5;

const PERIOD = 1000 / STEPS_PER_SECOND; // ms

/** Calls `tick` up to 50 times a second, one call at a time. */
export class Clock {
  /** @param {() => Promise<unknown>} tick */
  constructor(tick) {
    this.tick = tick;
    this.running = false;
    this.busy = false;
    /** Steps in the last second. */
    this.rate = 0;
  }

  start() {
    if (this.running) return;
    this.running = true;
    this.due = PERIOD;
    this.last = performance.now();
    this.counted = { since: this.last, steps: 0 };
    requestAnimationFrame(this.frame);
  }

  stop() {
    this.running = false;
  }

  frame = (now) => {
    if (!this.running) return;
    requestAnimationFrame(this.frame);
    // Missed steps are not made up for: on a slow device the dream runs slower.
    this.due = Math.min(this.due + now - this.last, 2 * PERIOD);
    this.last = now;
    this.count(now);
    if (this.due < PERIOD || this.busy) return;
    this.due -= PERIOD;
    this.busy = true;
    this.counted.steps++;
    this.tick().finally(() => (this.busy = false));
  };

  count(now) {
    const seconds = (now - this.counted.since) / 1000;
    if (seconds < 1) return;
    this.rate = this.counted.steps / seconds;
    this.counted = { since: now, steps: 0 };
  }
}
