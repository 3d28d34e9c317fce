// How numbers, documents and tags are written for people.
export const short = (text, most) => text.length > most ? text.slice(0, most - 1).trimEnd() + "…" : text;
export const number = (n) => n.toLocaleString("en", { maximumFractionDigits: 4 });
export const pictures = (n) => number(n) + (n === 1 ? " picture" : " pictures");
export const plain = (value) => typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);

// An id that only a program made says nothing to people.
export const titleOf = (match) =>
  match.text || (/^(sha256:)?[0-9a-f-]{16,}$/i.test(match.id) ? "Untitled picture" : match.id);

// A tag's name as a heading: `article_type` is "article type".
export const heading = (tag) => short(tag.replace(/[_\s]+/g, " ").trim() || tag, 60);

// Numbers between two ends; without one of them, "under 20" or "20 and more".
export function between({ from, to, below }) {
  const end = to ?? below;
  if (from === undefined) return (to === undefined ? "under " : "up to ") + number(end);
  return end === undefined ? number(from) + " and more" : number(from) + " – " + number(end);
}

// All values that stand at a tag's path in a document's tags: `size.width` is a tag in a tag.
export function valuesAt(tags, path) {
  const found = [];
  const look = (value, at) => {
    if (value === null || value === undefined) return;
    if (Array.isArray(value)) value.forEach((one) => look(one, at));
    else if (typeof value === "object") {
      for (const [name, inner] of Object.entries(value)) look(inner, at === "" ? name : at + "." + name);
    } else if (at === path) found.push(value);
  };
  look(tags || {}, "");
  return found;
}
