// Elements from plain values, and the smallest change of what is shown. Text is only ever text.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An HTML element; children are elements, strings, lists of them, or null for nothing. */
export const h = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);

/** The same for SVG. */
export const svg = (tag, attributes, ...children) =>
  build(document.createElementNS(SVG, tag), attributes, children);

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...flatten(children));
  return element;
}

function flatten(children) {
  return children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false);
}

/** Make the children of `parent` these, and leave every node alone that already is as it should be. */
export function show(parent, ...children) {
  const fresh = flatten(children).map((child) =>
    child instanceof Node ? child : document.createTextNode(child),
  );
  const present = [...parent.childNodes];
  fresh.forEach((node, index) => {
    if (index < present.length) adapt(present[index], node);
    else parent.append(node);
  });
  for (const surplus of present.slice(fresh.length)) surplus.remove();
}

// Focus, selection and opened details stay, because their elements do.
function adapt(present, fresh) {
  if (present.isEqualNode(fresh)) return;
  if (present.nodeName !== fresh.nodeName) {
    present.replaceWith(fresh);
  } else if (present.nodeType === Node.TEXT_NODE) {
    present.data = fresh.data;
  } else {
    adaptAttributes(present, fresh);
    show(present, ...fresh.childNodes);
  }
}

function adaptAttributes(present, fresh) {
  for (const { name } of [...present.attributes]) {
    const isOpened = name === "open" && present.nodeName === "DETAILS";
    if (!fresh.hasAttribute(name) && !isOpened) present.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (present.getAttribute(name) !== value) present.setAttribute(name, value);
  }
}
