/** A moment as the part of the address behind the #, and back. */

import { fromHalves, toHalves } from "./halves.js";

/** Float32 numbers as text that an address may hold: halves in base64url. */
export function pack(numbers) {
  const bytes = new Uint8Array(toHalves(numbers).buffer);
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/**
 * @param {string} text
 * @param {number} count how many numbers it must hold
 * @returns {Float32Array | null} null if it holds anything else
 */
export function unpack(text, count) {
  if (!/^[\w-]*$/.test(text)) return null;
  try {
    const bytes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    if (bytes.length !== 2 * count) return null;
    const numbers = fromHalves(
      new Uint16Array(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)).buffer),
    );
    return numbers.every(Number.isFinite) ? numbers : null;
  } catch {
    return null; // not base64
  }
}

/** What the present address says, as names and texts. */
export function readAddress() {
  return new URLSearchParams(location.hash.slice(1));
}

/** Put a moment into the address; returns the whole of it. */
export function writeAddress(fields) {
  history.replaceState(null, "", `#${new URLSearchParams(fields)}`);
  return location.href;
}

/** A number of an address, kept within its bounds; `otherwise` if it is none. */
export function numberOf(text, low, high, otherwise) {
  const value = Number(text ?? NaN);
  return Number.isFinite(value) ? Math.max(low, Math.min(value, high)) : otherwise;
}
