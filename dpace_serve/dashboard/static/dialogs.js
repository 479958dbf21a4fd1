// The two questions for a key. A <dialog> keeps the focus inside, and Escape closes it.

import { byId } from "./dom.js";
import * as server from "./server.js";

/** Ask for the API key; whoever closes the question is told by the page how to come back to it. */
export function askForApiKey(reason, { onKey, onClose }) {
  const dialog = byId("key-dialog");
  byId("key-dialog-error").textContent = reason;
  if (dialog.open) return;
  dialog.onclose = onClose;
  dialog.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    const field = byId("api-key");
    server.setApiKey(field.value);
    field.value = "";
    dialog.onclose = null;
    dialog.close();
    onKey();
  };
  dialog.showModal();
}

const CHANGES = {
  promote: {
    title: (name) => `Make ${name} the champion?`,
    text: "Requests that come from now on are served by it. Running ones end with the drafter they have, and the former champion stays loaded until its slot is needed.",
    button: "Promote",
    run: server.promote,
  },
  drop: {
    title: (name) => `End the comparison of ${name}?`,
    text: "It gets no new requests. It stays loaded until its slot is needed.",
    button: "Drop",
    run: server.drop,
  },
};

/** Ask for the admin key and make the change; the server's refusal is shown as it is. */
export function askForChange({ change, name, revision }, onDone) {
  const { title, text, button, run } = CHANGES[change];
  const dialog = byId("admin-dialog");
  const confirm = byId("admin-confirm");
  const field = byId("admin-key");
  const error = byId("admin-dialog-error");
  byId("admin-dialog-title").textContent = title(name);
  byId("admin-dialog-text").textContent = `${text} Revision ${revision}.`;
  confirm.textContent = button;
  confirm.disabled = false;
  error.textContent = "";
  field.value = server.knownAdminKey();
  byId("admin-cancel").onclick = () => dialog.close();
  dialog.onclose = () => {
    field.value = "";
  };
  dialog.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    if (confirm.disabled) return;
    confirm.disabled = true;
    error.textContent = "";
    try {
      await run({ name, revision }, field.value);
      dialog.close();
      onDone(`${button} ${name}: done.`);
    } catch (refusal) {
      error.textContent = refusal.message;
    } finally {
      confirm.disabled = false;
    }
  };
  dialog.showModal();
}
