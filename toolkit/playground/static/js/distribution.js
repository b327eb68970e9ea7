// What the sampler draws from, as `toolkit.inference.restricted` computes it; for vocabularies that are sent whole.

export const unpack = {
  floats: text => new Float64Array(bytes(text)),
  integers: text => new Int32Array(bytes(text)),
};

function bytes(text) {
  return Uint8Array.from(atob(text), character => character.charCodeAt(0)).buffer;
}

/**
 * Return the distribution after temperature, top-k and top-p in the form of the server's `drawn`.
 * `logprobs` are of all tokens that can be drawn, in descending order, `order` their ids.
 */
export function restrict(logprobs, order, { temperature, top_k, top_p }, uniform, top) {
  const count = logprobs.length;
  const softened = normalised(logprobs.map(value => Math.exp((value - logprobs[0]) / (temperature || 1))));
  const removed = new Array(count).fill("");
  if (temperature === 0) removed.fill("greedy", 1);
  else if (top_k > 0 && top_k < count) {
    const smallest = logprobs[top_k - 1];
    for (let i = top_k; i < count; i++) if (logprobs[i] < smallest) removed[i] = "top_k";
  }
  let kept = normalised(softened.map((value, i) => (removed[i] ? 0 : value)));
  if (temperature !== 0 && top_p < 1) {
    let preceding = 0;
    for (let i = 0; i < count && !removed[i]; i++) {
      if (preceding >= top_p) removed[i] = "top_p";
      preceding += kept[i];
    }
    kept = normalised(kept.map((value, i) => (removed[i] ? 0 : value)));
  }
  if (temperature === 0) kept = kept.map((_, i) => +(i === 0));
  const listed = kept.slice(0, top);
  let place = -1, high = 0;
  while (place < count - 1 && (place < 0 || high <= uniform)) high += kept[++place];
  while (place > 0 && !kept[place]) place--; // the sum rounded to less than the uniform number
  return {
    softened: softened.slice(0, top), p: listed, removed: removed.slice(0, top),
    rest: Math.max(0, 1 - listed.reduce((sum, value) => sum + value, 0)),
    kept: removed.filter(reason => !reason).length,
    entropy_bits: Math.max(0, -kept.reduce((sum, value) => sum + (value > 0 ? value * Math.log2(value) : 0), 0)),
    choice: { token: order[place], low: high - kept[place], high, place },
  };
}

function normalised(weights) {
  const total = weights.reduce((sum, value) => sum + value, 0);
  return weights.map(value => value / total);
}
