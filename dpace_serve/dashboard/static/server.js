// What the page asks the server, and the two keys that it asks with.

const API_KEY = "dpace.api-key";
const TIMEOUT_MS = 10_000;

/** The server wants the API key, or another one. */
export class KeyNeeded extends Error {}

/** The server does not answer, or not as it should. */
export class Away extends Error {}

/** The server refused a change; the message is its own. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let apiKey = storedKey();
let adminKey = null; // in memory only

export const hasApiKey = () => apiKey !== null;

export function setApiKey(key) {
  apiKey = key;
  try {
    if (key === null) sessionStorage.removeItem(API_KEY);
    else sessionStorage.setItem(API_KEY, key);
  } catch {
    // It is then in memory only, and asked for again when the page is loaded again.
  }
}

/** Storage may be switched off; even to look at it is an error then. */
function storedKey() {
  try {
    return sessionStorage.getItem(API_KEY);
  } catch {
    return null;
  }
}

export const knownAdminKey = () => adminKey ?? "";

/** Read a route below /dpace; null where this server does not have it. */
export async function read(path) {
  const response = await ask(path, { headers: bearer(apiKey) });
  if (response.status === 401) throw new KeyNeeded(await message(response));
  if (response.status === 404) return null;
  if (!response.ok) throw new Away(await message(response));
  try {
    return await response.json();
  } catch {
    throw new Away("its answer is no JSON");
  }
}

/** Make this very challenger the champion: the server refuses another revision of its name. */
export const promote = (challenger, key) =>
  change("promote", key, { method: "POST", body: JSON.stringify(challenger) });

/** End this very challenger's comparison. */
export const drop = (challenger, key) =>
  change(`drafters/challenger?${new URLSearchParams(challenger)}`, key, { method: "DELETE" });

async function change(path, key, request) {
  let response;
  try {
    response = await ask(path, { ...request, headers: bearer(key) });
  } catch (error) {
    throw new Refused(`No answer: ${error.message}. Look at the drafters before you try again.`, 0);
  }
  if (response.status === 401) adminKey = null;
  if (!response.ok) throw new Refused(await message(response), response.status);
  adminKey = key;
}

async function ask(path, request) {
  try {
    return await fetch(path, {
      ...request,
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch (error) {
    throw new Away(error.name === "TimeoutError" ? "it takes too long" : "it cannot be reached");
  }
}

const bearer = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function message(response) {
  try {
    const { error } = await response.json();
    return String(error.message);
  } catch {
    return `The server answered ${response.status}.`;
  }
}
