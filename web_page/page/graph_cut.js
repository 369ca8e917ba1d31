/** The cheapest cut between two terminals through a picture whose neighbours hold together (Boykov & Kolmogorov 2004). */

const [FREE, FRONT, BACK] = [0, 1, 2];
const [ROOT, ORPHAN] = [-1, -2]; // in place of the way to a parent
// The eight ways from a pixel; every other one leads back.
const [RIGHT, DOWN] = [
  [1, -1, 0, 0, 1, -1, -1, 1],
  [0, 0, 1, -1, 1, -1, 1, -1],
];

/**
 * Which pixels stay with the foreground.
 *
 * @param {Float32Array} excess of each pixel what it costs to call it background, less what it costs to call it foreground.
 * @param {Float32Array} bonds of each pixel eight numbers: what it costs to part it from its neighbours to the right, left,
 *   below, above, lower right, upper left, lower left and upper right; 0 beyond the square. It is used up.
 * @param {number} side of the square.
 * @returns {Uint8Array} 1 where a pixel is foreground.
 */
export function graphCut(excess, bonds, side) {
  const left = Float64Array.from(excess); // what of it no flow has used up
  const steps = RIGHT.map((right, way) => DOWN[way] * side + right);
  const tree = new Uint8Array(left.length);
  const parent = new Int8Array(left.length).fill(ORPHAN);
  const stamp = new Int32Array(left.length); // when it was last known how far the root is
  const distance = new Int32Array(left.length);
  const waiting = new Uint8Array(left.length);
  let [active, next, time] = [[], 0, 0];
  const orphans = [];

  const activate = (k) => {
    if (waiting[k]) return;
    waiting[k] = 1;
    active.push(k);
  };
  /** What can still flow on the way from a pixel, in the direction of the tree that it is in. */
  const room = (k, way) => (tree[k] === FRONT ? bonds[8 * k + way] : bonds[8 * (k + steps[way]) + (way ^ 1)]);

  left.forEach((amount, k) => {
    if (amount === 0) return;
    tree[k] = amount > 0 ? FRONT : BACK;
    parent[k] = ROOT;
    distance[k] = 1;
    activate(k);
  });

  /** Grows the tree of a pixel; returns the way on which it has met the other tree, or -1. */
  function grow(k) {
    const { x, y } = { x: k % side, y: (k / side) | 0 };
    for (let way = 0; way < 8; way++) {
      const [column, row] = [x + RIGHT[way], y + DOWN[way]];
      if (column < 0 || row < 0 || column >= side || row >= side || room(k, way) <= 0) continue;
      const other = k + steps[way];
      if (tree[other] === FREE) {
        [tree[other], parent[other], stamp[other], distance[other]] = [tree[k], way ^ 1, stamp[k], distance[k] + 1];
        activate(other);
      } else if (tree[other] !== tree[k]) return way;
    }
    return -1;
  }

  function orphan(k) {
    parent[k] = ORPHAN;
    orphans.push(k);
  }

  /** Lets as much flow as can from the one root over a way to the other. */
  function augment(k, way) {
    const other = k + steps[way];
    const [front, back, between] = tree[k] === FRONT ? [k, other, way] : [other, k, way ^ 1];
    let most = bonds[8 * front + between];
    let at = front;
    for (; parent[at] !== ROOT; at += steps[parent[at]]) {
      most = Math.min(most, bonds[8 * (at + steps[parent[at]]) + (parent[at] ^ 1)]);
    }
    most = Math.min(most, left[at]);
    for (at = back; parent[at] !== ROOT; at += steps[parent[at]]) most = Math.min(most, bonds[8 * at + parent[at]]);
    most = Math.min(most, -left[at]);
    bonds[8 * front + between] -= most;
    bonds[8 * back + (between ^ 1)] += most;
    for (at = front; parent[at] !== ROOT; ) {
      const [up, way] = [at + steps[parent[at]], parent[at]];
      bonds[8 * at + way] += most;
      bonds[8 * up + (way ^ 1)] -= most;
      if (bonds[8 * up + (way ^ 1)] <= 1e-9) orphan(at);
      at = up;
    }
    left[at] -= most;
    if (left[at] <= 1e-9) orphan(at);
    for (at = back; parent[at] !== ROOT; ) {
      const [up, way] = [at + steps[parent[at]], parent[at]];
      bonds[8 * at + way] -= most;
      bonds[8 * up + (way ^ 1)] += most;
      if (bonds[8 * at + way] <= 1e-9) orphan(at);
      at = up;
    }
    left[at] += most;
    if (left[at] >= -1e-9) orphan(at);
  }

  /** How far the root of a pixel is; Infinity where an orphan lies between. */
  function depth(k) {
    let [at, steps_] = [k, 0];
    for (;;) {
      if (parent[at] === ORPHAN) return Infinity;
      if (stamp[at] === time) {
        steps_ += distance[at];
        break;
      }
      steps_++;
      if (parent[at] === ROOT) {
        [stamp[at], distance[at]] = [time, 1];
        break;
      }
      at += steps[parent[at]];
    }
    const found = steps_;
    for (at = k; stamp[at] !== time; at += steps[parent[at]]) [stamp[at], distance[at]] = [time, steps_--];
    return found;
  }

  /** Finds another parent for an orphan, or lets it go, and its children with it. */
  function adopt(k) {
    const { x, y } = { x: k % side, y: (k / side) | 0 };
    let [best, least] = [ORPHAN, Infinity];
    const around = [];
    for (let way = 0; way < 8; way++) {
      const [column, row] = [x + RIGHT[way], y + DOWN[way]];
      if (column < 0 || row < 0 || column >= side || row >= side) continue;
      const other = k + steps[way];
      if (tree[other] !== tree[k]) continue;
      around.push(way);
      if (room(other, way ^ 1) <= 0) continue;
      const far = depth(other);
      if (far < least) [best, least] = [way, far];
    }
    if (best !== ORPHAN) {
      [parent[k], stamp[k], distance[k]] = [best, time, least + 1];
      return;
    }
    for (const way of around) {
      const other = k + steps[way];
      if (room(other, way ^ 1) > 0) activate(other);
      if (parent[other] >= 0 && other + steps[parent[other]] === k) orphan(other);
    }
    tree[k] = FREE;
  }

  while (next < active.length) {
    const k = active[next];
    const way = tree[k] === FREE ? -1 : grow(k);
    if (way < 0) {
      waiting[k] = 0;
      next++;
      if (next > 4 * left.length) [active, next] = [active.slice(next), 0];
      continue;
    }
    time++;
    augment(k, way);
    while (orphans.length) adopt(orphans.pop());
  }
  return tree.map((each) => (each === FRONT ? 1 : 0));
}
