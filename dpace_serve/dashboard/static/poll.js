// Rounds of reading: one at a time, none in a hidden tab, fewer while the server is away.

const EVERY_MS = 2_000;
const LONGEST_MS = 30_000;

/**
 * Read again and again.
 *
 * @param read one round; throws where there was no answer
 * @param onFailure told of the error and when the next round is, in seconds since 1970; whether to
 *   go on by itself
 */
export function startPolling(read, onFailure) {
  let timer = null;
  let isReading = false;
  let failures = 0;

  async function round() {
    clearTimeout(timer);
    timer = null;
    if (isReading || document.hidden) return;
    isReading = true;
    let delay = EVERY_MS;
    try {
      await read();
      failures = 0;
    } catch (error) {
      failures += 1;
      delay = Math.min(EVERY_MS * 2 ** (failures - 1), LONGEST_MS);
      if (!onFailure(error, (Date.now() + delay) / 1000)) delay = null;
    } finally {
      isReading = false;
    }
    if (delay !== null && !document.hidden) timer = setTimeout(round, delay);
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else round();
  });
  round();
  return { now: round };
}
