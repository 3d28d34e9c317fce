// What is searched for, as the page's address has it: a link is the search, and "back" goes back.
//
//   q, like (an id), picture (of this tab), weight    what is sought
//   filter, is.TAG, from.TAG, to.TAG, below.TAG       which documents may be found
//   group, sort, words, fit, compare                  how they are shown
export const WEIGHTS = [0.5, 1, 2, 4, 8];  // of words beside a picture
export const EVEN = 2;  // pictures are nearer to pictures than words are

export const VARIED = ":varied";  // an order that is by no tag
export const FITS = 0.5;
const ENDS = ["from", "to", "below"];

// A search of nothing, or one that is given in part.
export const asking = (part = {}) => ({
  q: "", like: "", picture: "", weight: EVEN,
  filter: "", chosen: new Map(), ranges: new Map(),  // of tags: values; {from, to, below}
  group: "", sort: "", words: false, fit: 0, compare: false,
  ...part,
});

export const seeks = (state) => Boolean(state.q || state.like || state.picture);
export const textAlone = (state) => Boolean(state.q && !state.like && !state.picture);
export const narrowed = (state) => Boolean(state.filter || state.chosen.size || state.ranges.size);
export const unfiltered = (state) => ({ ...state, filter: "", chosen: new Map(), ranges: new Map() });

// A text stands for itself, unless it looks like another value.
function written(value) {
  if (typeof value !== "string") return JSON.stringify(value);
  return read(value) === value ? value : JSON.stringify(value);
}

function read(text) {
  try {
    const value = JSON.parse(text);
    return ["string", "boolean"].includes(typeof value) || Number.isFinite(value) ? value : text;
  } catch { return text; }
}

export function toAddress(state) {
  const given = [];
  const add = (name, value) => given.push(encodeURIComponent(name) + "=" + encodeURIComponent(value));
  for (const name of ["q", "like", "picture"]) if (state[name]) add(name, state[name]);
  if (state.weight !== EVEN) add("weight", state.weight);
  if (state.filter) add("filter", state.filter);
  for (const [tag, values] of state.chosen) for (const value of values) add("is." + tag, written(value));
  for (const [tag, range] of state.ranges) {
    for (const end of ENDS) if (range[end] !== undefined) add(end + "." + tag, range[end]);
  }
  for (const name of ["group", "sort"]) if (state[name]) add(name, state[name]);
  if (state.words) add("words", 1);
  if (state.fit) add("fit", state.fit);
  if (state.compare) add("compare", 1);
  return given.length ? "?" + given.join("&") : "";
}

// The search, and sentences about what of the address can't be meant.
export function fromAddress(search) {
  const given = new URLSearchParams(search), problems = [];
  let state = asking();
  const decimal = (name, text, least, most) => {
    const value = text.trim() === "" ? NaN : Number(text);
    if (value >= least && value <= most) return value;
    problems.push("The address says " + name + " is “" + text.slice(0, 40) + "”, which is no number it can be: it was left out.");
    return undefined;
  };
  for (const name of ["q", "like", "picture", "filter", "group", "sort"]) state[name] = (given.get(name) || "").trim();
  if (given.has("weight")) state.weight = decimal("weight", given.get("weight"), 0.01, 100) ?? EVEN;
  if (given.has("fit")) state.fit = decimal("fit", given.get("fit"), 0, 1) ?? 0;
  state.words = given.get("words") === "1";
  state.compare = given.get("compare") === "1";
  for (const [name, text] of given) {
    const [kind, tag] = [name.slice(0, name.indexOf(".")), name.slice(name.indexOf(".") + 1)];
    if (!name.includes(".") || !tag) continue;
    if (kind === "is") state = choose(state, tag, read(text), true);
    if (!ENDS.includes(kind)) continue;
    const value = decimal(name, text, -Number.MAX_VALUE, Number.MAX_VALUE);
    if (value !== undefined) state = limit(state, tag, { ...state.ranges.get(tag), [kind]: value });
  }
  return { state, problems };
}

// The search with a value of a tag chosen, or not any more.
export function choose(state, tag, value, on) {
  const others = (state.chosen.get(tag) || []).filter((one) => one !== value);
  return { ...state, chosen: changed(state.chosen, tag, on ? [...others, value] : others) };
}

// The search with a tag's numbers between these ends; none: any number.
export function limit(state, tag, range) {
  const ends = Object.entries(range).filter(([, end]) => end !== undefined);
  return { ...state, ranges: changed(state.ranges, tag, ends.length ? Object.fromEntries(ends) : []) };
}

function changed(map, key, value) {
  const made = new Map(map);
  if (Array.isArray(value) && !value.length) made.delete(key); else made.set(key, value);
  return made;
}

// The whole filter in the service's language, but for what is chosen of the tag `without`.
export function filterOf(state, without = null) {
  const name = (tag) => "`" + tag.replaceAll("`", "``") + "`";
  const parts = [];
  for (const [tag, values] of state.chosen) {
    if (tag !== without) parts.push(name(tag) + " in " + JSON.stringify(values));
  }
  for (const [tag, { from, to, below }] of state.ranges) {
    if (tag === without) continue;
    if (from !== undefined) parts.push(name(tag) + " >= " + from);
    if (to !== undefined) parts.push(name(tag) + " <= " + to);
    if (below !== undefined) parts.push(name(tag) + " < " + below);
  }
  if (state.filter) parts.unshift(parts.length ? "(" + state.filter + ")" : state.filter);
  return parts.join(" and ");
}
