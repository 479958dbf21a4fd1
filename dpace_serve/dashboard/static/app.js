// Reads the server again and again, and shows what it says.

import { redraw } from "./charts.js";
import { askForApiKey, askForChange } from "./dialogs.js";
import { byId, show } from "./dom.js";
import { slots } from "./drafters.js";
import * as format from "./format.js";
import { headline, headlineTitle } from "./headline.js";
import { hasRestarted, SeenHistory } from "./history.js";
import { notCounted } from "./not_counted.js";
import { showOverTime } from "./over_time.js";
import { startPolling } from "./poll.js";
import { showPositions } from "./positions.js";
import { requests } from "./requests.js";
import { buildStyles, current } from "./series.js";
import * as server from "./server.js";
import { attachSwitch } from "./theme.js";
import { showVerdicts, spoken } from "./verdict.js";
import { workloads } from "./workloads.js";

const NUM_RECORDS = 20;
const HISTORY_EVERY_SECONDS = 10;
const MISSING_EVERY_SECONDS = 60;

const seen = new SeenHistory();
const latest = { acceptance: null, verdict: null, drafters: null, history: null };
const readAgainAt = { verdict: 0, drafters: 0, history: 0 };
let awaySince = null;
let said = null;

const nowSeconds = () => Date.now() / 1000;

async function readAll() {
  const acceptance = await server.read(`acceptance?records=${NUM_RECORDS}`);
  if (acceptance === null) throw new server.Away("it has no /dpace/acceptance");
  if (isRestarted(acceptance)) beginAnew();
  latest.acceptance = acceptance;
  if (acceptance.drafter !== null) {
    seen.add(acceptance, nowSeconds());
    await readWhenDue("verdict", 0);
    await readWhenDue("drafters", 0);
    await readWhenDue("history", HISTORY_EVERY_SECONDS);
  }
  byId("forget-key").hidden = !server.hasApiKey();
  showConnected();
  showAll();
}

// A route that this server lacks is asked for once in a while only: it may have been upgraded.
async function readWhenDue(route, everySeconds) {
  if (nowSeconds() < readAgainAt[route]) return;
  latest[route] = await server.read(route);
  const wait = latest[route] === null ? MISSING_EVERY_SECONDS : everySeconds;
  readAgainAt[route] = nowSeconds() + wait;
}

function isRestarted(acceptance) {
  const before = latest.acceptance;
  if (!before?.drafter || !acceptance.drafter) return false;
  return hasRestarted(before, acceptance);
}

function beginAnew() {
  seen.clear();
  said = null;
  latest.history = null;
  for (const route of Object.keys(readAgainAt)) readAgainAt[route] = 0;
  byId("counted-since").textContent =
    `Counted since the server started; it started anew before ${format.clock(nowSeconds())}.`;
}

function showAll() {
  const { acceptance, verdict, drafters, history } = latest;
  const isDrafting = acceptance.drafter !== null;
  byId("main").setAttribute("aria-busy", "false");
  byId("nothing-drafted").hidden = isDrafting;
  byId("sections").hidden = !isDrafting;
  if (!isDrafting) return;
  const styleOf = buildStyles(acceptance, drafters);
  const rows = current(acceptance, styleOf);
  show(byId("headline-title"), headlineTitle(acceptance));
  show(byId("headline"), headline(acceptance));
  showVerdicts(verdict, drafters, styleOf);
  showPositions(acceptance, rows, verdict?.comparisons ?? [], styleOf);
  showOverTime(history?.points ?? seen.points, history !== null, styleOf);
  show(byId("workloads"), workloads(acceptance, rows));
  show(byId("drafters"), slots(drafters, styleOf));
  show(byId("requests"), requests(acceptance, styleOf));
  show(byId("not-counted"), notCounted(acceptance));
  showCoverage(acceptance);
  sayChanges(verdict);
}

function showCoverage({ confidence }) {
  const coverage = format.percent(confidence, 0);
  byId("about-intervals").textContent =
    `Intervals of tau and of acceptance by position are ${coverage} intervals with the request as unit, and hold for one look; those of a verdict hold however often one looks at them.`;
}

function sayChanges(verdict) {
  const now = spoken(verdict);
  const changed = [...now].filter(([key, { state }]) => said !== null && said.get(key)?.state !== state);
  if (changed.length > 0) announce(changed.map(([, { words }]) => words).join(" "));
  said = now;
}

const announce = (words) => {
  byId("announcements").textContent = words;
};

function showConnected() {
  if (awaySince !== null) announce("The server is back.");
  awaySince = null;
  byId("banner").hidden = true;
  byId("connection").dataset.state = "live";
  byId("connection").textContent = `Live, ${format.clock(nowSeconds())}`;
}

function showBanner(words, action) {
  byId("banner").hidden = false;
  byId("banner-text").textContent = words;
  byId("try-now").textContent = action;
}

function showFailure(error, nextSeconds) {
  if (error instanceof server.KeyNeeded) {
    const wasWrong = server.hasApiKey();
    server.setApiKey(null);
    byId("connection").dataset.state = "connecting";
    byId("connection").textContent = "Waiting for the key";
    askForApiKey(wasWrong ? "The server did not accept that key." : "", {
      onKey: polling.now,
      onClose: () => showBanner("The server asks for its API key.", "Enter the key"),
    });
    return false;
  }
  if (!(error instanceof server.Away)) console.error(error);
  const isNew = awaySince === null;
  awaySince ??= nowSeconds();
  const reason = error instanceof server.Away ? error.message : "its answer is not as this page expects it";
  showBanner(
    `The server is away since ${format.clock(awaySince)} (${reason}). Trying again at ${format.clock(nextSeconds)}.`,
    "Try now",
  );
  byId("connection").dataset.state = "away";
  byId("connection").textContent = "Away";
  if (isNew) announce("The server is away. The numbers are the last ones seen.");
  return true;
}

attachSwitch(byId("theme"), redraw);
byId("try-now").addEventListener("click", () => polling.now());
byId("forget-key").addEventListener("click", () => {
  server.setApiKey(null);
  location.reload();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-change]");
  if (button === null) return;
  askForChange(button.dataset, (words) => {
    announce(words);
    polling.now();
  });
});

const polling = startPolling(readAll, showFailure);
