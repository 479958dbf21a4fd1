// Sums over time: the server's own, or else what this page has seen. Differences give tau.

import { keyOf, totals } from "./series.js";

const EVERY_SECONDS = 10;
const MOST_POINTS = 361;
const MOST_WINDOWS = 60;

/** The page's own memory of the sums, in the shape of GET /dpace/history. */
export class SeenHistory {
  #points = [];

  add(acceptance, time) {
    const last = this.#points.at(-1);
    if (last !== undefined && time - last.time < EVERY_SECONDS) return;
    const arms = totals(acceptance).map(({ drafter, revision, arm, requests, steps, accepted }) => ({
      drafter,
      revision,
      arm,
      requests,
      steps,
      accepted: accepted.reduce((sum, part) => sum + part, 0),
    }));
    this.#points.push({ time, arms });
    this.#points.splice(0, this.#points.length - MOST_POINTS);
  }

  clear() {
    this.#points = [];
  }

  get points() {
    return this.#points;
  }
}

/** Whether a counter has fallen, which only a restart does. */
export function hasRestarted(before, now) {
  const requests = new Map(totals(before).map((row) => [keyOf(row), row.requests]));
  return totals(now).some((row) => row.requests < (requests.get(keyOf(row)) ?? 0));
}

/**
 * Tau of each drafter and arm in equal windows of time.
 *
 * @returns {Map<string, {drafter, revision, arm, times: number[], taus: (number|null)[]}>} a window
 *   without a step, or with a restart inside, is null
 */
export function tauOverTime(points) {
  const kept = atWindowEnds(points);
  const lines = new Map();
  kept.slice(1).forEach((point, index) => {
    const before = new Map(kept[index].arms.map((arm) => [keyOf(arm), arm]));
    for (const arm of point.arms) {
      const key = keyOf(arm);
      const { drafter, revision } = arm;
      if (!lines.has(key)) lines.set(key, { drafter, revision, arm: arm.arm, times: [], taus: [] });
      const line = lines.get(key);
      line.times.push(point.time);
      line.taus.push(tauBetween(before.get(key) ?? { steps: 0, accepted: 0 }, arm));
    }
  });
  for (const [key, line] of lines) if (line.taus.every((tau) => tau === null)) lines.delete(key);
  return lines;
}

function tauBetween(before, after) {
  const steps = after.steps - before.steps;
  const accepted = after.accepted - before.accepted;
  return steps > 0 && accepted >= 0 ? 1 + accepted / steps : null;
}

// Short windows hold few steps and jump about; an hour is shown in minutes.
function atWindowEnds(points) {
  if (points.length < 2) return points;
  const seconds = points.at(-1).time - points[0].time;
  const width = Math.max(EVERY_SECONDS, Math.ceil(seconds / MOST_WINDOWS));
  const kept = [points[0]];
  points.slice(1).forEach((point, index) => {
    const isLast = index === points.length - 2;
    if (isLast || point.time - kept.at(-1).time >= width) kept.push(point);
  });
  return kept;
}
