/** Moments as address fragments, the part behind the #. */

import { fromFloat16, toFloat16 } from "./float16.js";

/** Encode float32 numbers for an address: float16 in base64url. */
export function pack(numbers) {
  const bytes = new Uint8Array(toFloat16(numbers).buffer);
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

/**
 * @param {string} text
 * @param {number} count the number of values it must hold
 * @returns {Float32Array | null} null if the text holds anything else
 */
export function unpack(text, count) {
  if (!/^[\w-]*$/.test(text)) return null;
  try {
    const bytes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    if (bytes.length !== 2 * count) return null;
    const numbers = fromFloat16(
      new Uint16Array(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)).buffer),
    );
    return numbers.every(Number.isFinite) ? numbers : null;
  } catch {
    return null; // not base64
  }
}

/** The fields of the current address. */
export function readAddress() {
  return new URLSearchParams(location.hash.slice(1));
}

/** Write a moment to the address bar and return the whole address. */
export function writeAddress(fields) {
  history.replaceState(null, "", `#${new URLSearchParams(fields)}`);
  return location.href;
}

/** Parse a number and clamp it to its bounds; `otherwise` if it is not a number. */
export function numberOf(text, low, high, otherwise) {
  const value = Number(text ?? NaN);
  return Number.isFinite(value) ? Math.max(low, Math.min(value, high)) : otherwise;
}
