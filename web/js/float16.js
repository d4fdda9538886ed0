/** Float16, the format of the weights file and of addresses. Everything else is float32. */

/** The value of every float16 number, indexed by its bits. */
const VALUES = Float32Array.from({ length: 65536 }, (_, bits) => {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  if (exponent === 0) return sign * 2 ** -14 * fraction;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * 2 ** (exponent - 15) * (1 + fraction);
});

/**
 * @param {Uint16Array} bits
 * @returns {Float32Array}
 */
export function fromFloat16(bits) {
  const numbers = new Float32Array(bits.length);
  for (let i = 0; i < bits.length; i++) numbers[i] = VALUES[bits[i]]; // from() is slow
  return numbers;
}

/**
 * Rounds to the nearest float16, by binary search: positive numbers are ordered as their bits.
 * @param {ArrayLike<number>} numbers finite
 * @returns {Uint16Array}
 */
export function toFloat16(numbers) {
  return Uint16Array.from(numbers, (number) => {
    const size = Math.min(Math.abs(number), VALUES[0x7bff]);
    let [low, high] = [0, 0x7bff];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (size > (VALUES[middle] + VALUES[middle + 1]) / 2) low = middle + 1;
      else high = middle;
    }
    return low | (number < 0 ? 0x8000 : 0);
  });
}

/** The tensors of an export by name, read from its weights file. */
export class Tensors {
  /**
   * @param {Record<string, {shape: number[], offset: number}>} index offsets count numbers
   * @param {ArrayBuffer} buffer little-endian, like every machine that runs a browser
   */
  constructor(index, buffer) {
    this.index = index;
    this.values = new Uint16Array(buffer);
  }

  /** @returns {Float32Array} */
  get(name) {
    const { shape, offset } = this.index[name];
    return fromFloat16(this.values.subarray(offset, offset + shape.reduce((a, b) => a * b, 1)));
  }

  /** The rows of a matrix. @returns {Float32Array[]} */
  rows(name) {
    const values = this.get(name);
    const [count] = this.index[name].shape;
    const length = values.length / count;
    return Array.from({ length: count }, (_, i) => values.subarray(i * length, (i + 1) * length));
  }
}
