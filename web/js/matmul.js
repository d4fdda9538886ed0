/**
 * Matrix multiplication, the only expensive operation: 24 million multiply-adds a frame.
 *
 * The kernel is WebAssembly with 128-bit vectors, assembled below from its instructions, so that
 * there is neither a compiler to install nor a binary to trust. Browsers without vectors run the
 * same loop in JavaScript, about eight times slower.
 *
 * Weights are stored in panels of 16 columns, (panel, row, 16), in the order of reading.
 */

const LANES = 16; // columns of a panel: four vectors of four float32
const VECTORS = LANES / 4;
const PAGE_BYTES = 65536;

/** The memory of all matrices. It grows only while the model is built. */
export class Workspace {
  constructor() {
    this.memory = new WebAssembly.Memory({ initial: 1 });
    this.used = 0;
    this.kernels = compile(this.memory) ?? plainKernels(this.memory);
  }

  /** Byte offset of `count` fresh float32 zeros. */
  allocate(count) {
    const offset = this.used;
    this.used += Math.ceil((4 * count) / 64) * 64;
    const missing = this.used - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / PAGE_BYTES));
    return offset;
  }
}

/** y = x W for one matrix W, with room for up to `rows` rows of x and y. */
export class MatMul {
  /**
   * @param {Workspace} workspace
   * @param {Float32Array} weight (inputs, outputs), row by row
   * @param {number} inputs
   * @param {number} [rows]
   */
  constructor(workspace, weight, inputs, rows = 1) {
    const outputs = weight.length / inputs;
    this.workspace = workspace;
    this.inputs = inputs;
    this.panels = Math.ceil(outputs / LANES);
    /** Distance between rows of the output, which is padded to whole panels. */
    this.stride = this.panels * LANES;
    const even = rows + (rows % 2);
    this.sizes = { x: even * inputs, y: even * this.stride };
    this.weights = workspace.allocate(inputs * this.stride);
    this.x = workspace.allocate(this.sizes.x);
    this.y = workspace.allocate(this.sizes.y);
    const packed = new Float32Array(workspace.memory.buffer, this.weights, inputs * this.stride);
    for (let row = 0; row < inputs; row++) {
      const line = weight.subarray(row * outputs, (row + 1) * outputs);
      for (let panel = 0; panel < this.panels; panel++) {
        const part = line.subarray(panel * LANES, (panel + 1) * LANES);
        packed.set(part, (panel * inputs + row) * LANES);
      }
    }
  }

  /** The rows of x, (rows, inputs), to be written before `run`. */
  get input() {
    return new Float32Array(this.workspace.memory.buffer, this.x, this.sizes.x);
  }

  /** The rows of y, (rows, stride). */
  get output() {
    return new Float32Array(this.workspace.memory.buffer, this.y, this.sizes.y);
  }

  /** Multiply the first `rows` rows of x. */
  run(rows = 1) {
    const { single, pairs } = this.workspace.kernels;
    if (rows === 1) single(this.x, this.weights, this.y, 1, this.inputs, this.panels);
    else pairs(this.x, this.weights, this.y, Math.ceil(rows / 2), this.inputs, this.panels);
    return this.output;
  }
}

/** The kernels in plain JavaScript; the tests compare the others with them. */
export function plainKernels(memory) {
  const kernel = (height) => (x, weights, y, groups, inputs, panels) => {
    const numbers = new Float32Array(memory.buffer);
    for (let panel = 0; panel < panels; panel++) {
      for (let row = 0; row < groups * height; row++) {
        const first = x / 4 + row * inputs;
        for (let lane = 0; lane < LANES; lane += 4) {
          let [a, b, c, d] = [0, 0, 0, 0]; // as many sums as stay in registers
          let w = weights / 4 + panel * inputs * LANES + lane;
          for (let i = first; i < first + inputs; i++, w += LANES) {
            const factor = numbers[i];
            a += factor * numbers[w];
            b += factor * numbers[w + 1];
            c += factor * numbers[w + 2];
            d += factor * numbers[w + 3];
          }
          numbers.set([a, b, c, d], y / 4 + (row * panels + panel) * LANES + lane);
        }
      }
    }
  };
  return { single: kernel(1), pairs: kernel(2) };
}

/** The kernels in WebAssembly, or null if the browser does not support or allow vectors. */
function compile(memory) {
  try {
    const module = new WebAssembly.Module(assemble([kernelCode(1), kernelCode(2)]));
    const { exports } = new WebAssembly.Instance(module, { page: { memory } });
    return { single: exports.k0, pairs: exports.k1 };
  } catch (error) {
    if (!(error instanceof WebAssembly.CompileError)) throw error;
    return null;
  }
}

// WebAssembly's binary format (https://webassembly.github.io/spec/core/binary/).

const I32 = 0x7f;
const V128 = 0x7b;
const PARAMETERS = 6;

/** Unsigned LEB128, the format's variable-length integers. */
function leb(value) {
  const bytes = [];
  do {
    bytes.push((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
    value >>>= 7;
  } while (value);
  return bytes;
}

const get = (local) => [0x20, local];
const set = (local) => [0x21, local];
// i32.const is signed; constants below 64 have the same byte signed and unsigned.
const constant = (value) => [0x41, value];
const ADD = 0x6a;
const SUBTRACT = 0x6b;
const MULTIPLY = 0x6c;
const advance = (local, bytes) => [...get(local), ...bytes, ADD, ...set(local)];
const times4 = (local) => [...get(local), ...constant(4), MULTIPLY];
/** A loop whose body leaves a flag on the stack: run again or not. */
const loop = (...body) => [0x03, 0x40, ...body.flat(), 0x0d, 0, 0x0b];
/** Counts a local down to zero. */
const countDown = (local) => [...get(local), ...constant(1), SUBTRACT, 0x22, local];
const load = (pointer, offset) => [...get(pointer), 0xfd, 0x00, 4, offset];
const loadSplat = (pointer) => [...get(pointer), 0xfd, 0x09, 2, 0];
const store = (pointer, offset, value) => [...get(pointer), ...get(value), 0xfd, 0x0b, 4, offset];
const ZERO = [0xfd, 0x0c, ...new Array(16).fill(0)];
const VECTOR_ADD = [0xfd, 0xe4, 0x01];
const VECTOR_MULTIPLY = [0xfd, 0xe6, 0x01];

/**
 * A function (x, weights, y, groups, inputs, panels) that processes `height` rows of x at a time:
 * each weight is read once for all of them, and 4 · height sums stay in registers.
 */
function kernelCode(height) {
  const [x, weights, y, groups, inputs, panels] = Array(PARAMETERS).keys();
  let count = PARAMETERS;
  const locals = (number) => Array.from({ length: number }, () => count++);
  const [left, rows, cells, w, end] = locals(5);
  const from = locals(height); // a pointer into each of the rows of x
  const vectors = locals(VECTORS);
  const [factor] = locals(1);
  const sums = from.map(() => locals(VECTORS));
  const lanes = [...Array(VECTORS).keys()];

  const innermost = loop(
    lanes.flatMap((v) => [...load(w, 16 * v), ...set(vectors[v])]),
    from.flatMap((pointer, row) => [
      ...loadSplat(pointer),
      ...set(factor),
      ...lanes.flatMap((v) => [
        ...get(sums[row][v]),
        ...[...get(factor), ...get(vectors[v]), ...VECTOR_MULTIPLY],
        ...VECTOR_ADD,
        ...set(sums[row][v]),
      ]),
      ...advance(pointer, constant(4)),
    ]),
    advance(w, [...constant(32), ...constant(32), ADD]),
    [...get(from[0]), ...get(end), 0x49], // unsigned less-than
  );
  const group = loop(
    [...get(weights), ...set(w)],
    from.flatMap((pointer, row) => [
      ...[...get(rows), ...times4(inputs), ...constant(row), MULTIPLY, ADD, ...set(pointer)],
      ...sums[row].flatMap((sum) => [...ZERO, ...set(sum)]),
    ]),
    [...get(rows), ...times4(inputs), ADD, ...set(end)],
    innermost,
    from.flatMap((_, row) => [
      ...lanes.flatMap((v) => store(cells, 16 * v, sums[row][v])),
      ...advance(cells, [...times4(panels), ...constant(16), MULTIPLY]),
    ]),
    advance(rows, [...times4(inputs), ...constant(height), MULTIPLY]),
    countDown(left),
  );
  // `panels` is a row's length in y, hence not what counts the panels down: `y` runs to `last`.
  const [last] = locals(1);
  const code = [
    ...[...get(y), ...times4(panels), ...constant(16), MULTIPLY, ADD, ...set(last)],
    ...loop(
      [...get(groups), ...set(left), ...get(x), ...set(rows), ...get(y), ...set(cells)],
      group,
      [...get(w), ...set(weights)],
      advance(y, [...constant(32), ...constant(32), ADD]),
      [...get(y), ...get(last), 0x49],
    ),
    0x0b,
  ];
  const types = Array(count - PARAMETERS).fill(V128);
  for (const local of [left, rows, cells, w, end, ...from, last]) types[local - PARAMETERS] = I32;
  return [...leb(types.length), ...types.flatMap((type) => [1, type]), ...code];
}

/** A module of these functions, named k0, k1, … and working on the imported page.memory. */
function assemble(bodies) {
  const name = (text) => [text.length, ...new TextEncoder().encode(text)];
  const section = (id, items) => {
    const bytes = [...leb(items.length), ...items.flat()];
    return [id, ...leb(bytes.length), ...bytes];
  };
  return new Uint8Array([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [[0x60, PARAMETERS, ...Array(PARAMETERS).fill(I32), 0]]),
    ...section(2, [[...name("page"), ...name("memory"), 2, 0, 1]]),
    ...section(3, bodies.map(() => [0])),
    ...section(7, bodies.map((_, i) => [...name(`k${i}`), 0, i])),
    ...section(10, bodies.map((body) => [...leb(body.length), ...body])),
  ]);
}
