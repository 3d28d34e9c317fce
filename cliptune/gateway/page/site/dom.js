// Nodes of the page. Titles and tags are other people's text: they enter it as text alone.
export const $ = (id) => document.getElementById(id);

// An element with a class and a text, or with children.
export function make(name, className = "", ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children.map((child) => child instanceof Node ? child : String(child)));
  return node;
}

export function button(className, label, onclick) {
  const node = make("button", className, label);
  node.type = "button";
  node.addEventListener("click", onclick);
  return node;
}

// New children, without taking the focus from the one that takes its place: the same `data-key`.
export function renew(parent, ...children) {
  const key = parent.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
  parent.replaceChildren(...children);
  if (key === undefined) return;
  [...parent.querySelectorAll("[data-key]")].find((node) => node.dataset.key === key)?.focus({ preventScroll: true });
}
