/** Calls the functions of worker.js; each returns a promise. */
export class Engine {
  constructor() {
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.waiting = new Map();
    this.calls = 0;
    this.worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.waiting.get(id);
      this.waiting.delete(id);
      if (error) reject(new Error(error));
      else resolve(result);
    };
    this.worker.onerror = (event) => {
      for (const { reject } of this.waiting.values()) reject(new Error(event.message));
      this.waiting.clear();
    };
  }

  call(method, args, transferred = []) {
    const id = this.calls++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, method, args }, transferred);
    });
  }

  load(manifest, buffer) {
    return this.call("load", [manifest, buffer], [buffer]);
  }

  imagine(state, action, conditions) {
    return this.call("imagine", [state, action, conditions]);
  }

  decode(latents) {
    return this.call("decode", [latents]);
  }

  memoryAfter(latents, actions) {
    return this.call("memoryAfter", [latents, actions]);
  }
}
