// Light, dark, or as the system has it; the choice outlives the page.

const STORED_AS = "dpace.theme";
const CHOICES = ["system", "light", "dark"];

const system = matchMedia("(prefers-color-scheme: dark)");

/** What the reader chose; storage may be switched off, then it is the system's. */
function stored() {
  try {
    const choice = localStorage.getItem(STORED_AS);
    return CHOICES.includes(choice) ? choice : "system";
  } catch {
    return "system";
  }
}

function store(choice) {
  try {
    localStorage.setItem(STORED_AS, choice);
  } catch {
    // It then holds for this page only.
  }
}

function apply(choice) {
  if (choice === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = choice;
}

let current = stored();
apply(current);

/** Let a button go through the choices; `onChange` is told when other colours are shown. */
export function attachSwitch(button, onChange) {
  const label = () => {
    button.textContent = `Colours: ${current}`;
    button.setAttribute("aria-label", `Colours: ${current}. Change`);
  };
  button.addEventListener("click", () => {
    current = CHOICES[(CHOICES.indexOf(current) + 1) % CHOICES.length];
    store(current);
    apply(current);
    label();
    onChange();
  });
  system.addEventListener("change", onChange);
  label();
}
