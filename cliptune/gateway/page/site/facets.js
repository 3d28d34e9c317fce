// The panel of filters, made of the tags that documents have: values and ranges with counts.
import { $, button, make, renew } from "./dom.js";
import { count } from "./service.js";
import { choose, filterOf, limit, narrowed, unfiltered } from "./state.js";
import { between, heading, number, plain, short } from "./words.js";

const LISTED = 8, ALL = 1000, AT_FIRST = 8, MOST = 30, OPEN = 5, RANGES = 5;
const opened = new Map(), whole = new Set();  // by tag: what its reader has unfolded
const edges = new Map();  // by tag: where its ranges end, the same under all filters
let more = false, drawn = null, listed = [], last = null;

const numeric = (tag) => tag.types.length === 1 && tag.types[0] === "number";

// Tags by whose values documents can be told apart, but not each from all others as by a number of its own.
function suits(tag) {
  if (tag.distinct < 2 || !tag.examples.length) return false;
  const integers = tag.examples.every(({ value }) => Number.isInteger(value));
  if (numeric(tag) && !(integers && tag.distinct === tag.documents)) return true;
  return tag.distinct <= Math.max(20, tag.documents / 2);
}

// Tags that several documents share a value of, and that may name what these are pictures of.
export const groupable = (tags) => tags.filter((tag) => tag.distinct > 1 && tag.distinct < tag.documents &&
  tag.examples.some(({ value }) => typeof value === "string" || Number.isInteger(value)));
export const sortable = (tags) => tags.filter((tag) => numeric(tag) && tag.distinct > 1);
export const valuesListed = () => listed;  // texts among them: words that documents have
export const forget = () => { drawn = null; };

// Count under the state's filters, and show it; what is chosen of a tag doesn't count for itself.
export async function draw(state, tags, signal, ask) {
  last = [state, tags, signal, ask];
  try {
    await drawWhole(...last);
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    drawn = null;
    renew($("tags"), make("p", "aside", "The filters can't be counted: " + error.message));
  }
}

const redraw = () => draw(...last);

async function drawWhole(state, tags, signal, ask) {
  const used = new Set([...state.chosen.keys(), ...state.ranges.keys()]);
  const suited = tags.filter((tag) => suits(tag) || used.has(tag.name));
  const names = [...new Set([...used, ...suited.map((tag) => tag.name)])].slice(0, MOST);
  const kept = more ? names : names.slice(0, Math.max(AT_FIRST, used.size));
  const key = JSON.stringify([filterOf(state), kept, [...whole]]);
  if (key === drawn) return;
  const many = new Set(suited.filter((tag) => numeric(tag) && tag.distinct > LISTED).map((tag) => tag.name));
  const how = (tag) => many.has(tag) ? { ranges: edges.get(tag) || RANGES } : { limit: whole.has(tag) ? ALL : LISTED };
  const wanted = (some) => Object.fromEntries(some.map((tag) => [tag, how(tag)]));
  const asked = [...used].map((tag) => count(state, wanted([tag]), tag, signal));
  const rest = kept.filter((tag) => !used.has(tag));
  if (rest.length) asked.push(count(state, wanted(rest), null, signal));
  const facets = new Map((await Promise.all(asked)).flatMap((told) => Object.entries(told)));
  for (const [tag, { ranges }] of facets) if (ranges && ranges.length > 1) edges.set(tag, ranges.slice(1).map((one) => one.from));
  // In the order of /tags, wherever it is used.
  const order = [...suited.map((tag) => tag.name).filter((name) => facets.has(name)),
    ...kept.filter((name) => !suited.some((tag) => tag.name === name))];
  listed = [...facets.values()].flatMap((facet) => facet.values || []).map((one) => plain(one.value));
  const there = order.filter((tag) => used.has(tag) || facets.get(tag).documents);
  const sections = there.map((tag, i) => section(state, tag, facets.get(tag), i, ask));
  if (!more && names.length > kept.length) {
    sections.push(button("quiet", "More filters", () => { more = true; redraw(); }));
  }
  renew($("tags"), ...sections);
  drawn = key;
}

function section(state, tag, facet, place, ask) {
  const chosen = (state.chosen.get(tag) || []).length + (state.ranges.has(tag) ? 1 : 0);
  const node = make("details", "facet"), summary = make("summary", "", make("span", "name", heading(tag)));
  const inside = make("div", "inside");
  summary.title = short(tag, 300);
  summary.dataset.key = "open " + tag;
  if (chosen) summary.append(make("span", "chosen", chosen), make("span", "unseen", " chosen"));
  node.open = opened.get(tag) ?? (place < OPEN || chosen > 0);
  node.addEventListener("toggle", () => opened.set(tag, node.open));
  inside.setAttribute("role", "group");
  inside.setAttribute("aria-label", heading(tag));
  inside.append(...(facet.ranges || state.ranges.has(tag) ? ranges(state, tag, facet, ask) : values(state, tag, facet, ask)));
  node.append(summary, inside);
  return node;
}

function values(state, tag, facet, ask) {
  const chosen = state.chosen.get(tag) || [];
  const counted = facet.values || [];
  const missing = chosen.filter((value) => !counted.some((one) => one.value === value));
  const often = facet.distinct > counted.length ? undefined : 0;  // of those that aren't listed
  const rows = [...missing.map((value) => ({ value, count: often })), ...counted].map(({ value, count: has }) => {
    const label = make("label", "value"), box = make("input");
    box.type = "checkbox";
    box.checked = chosen.includes(value);
    box.dataset.key = "is " + tag + " " + JSON.stringify(value);
    box.addEventListener("change", () => ask((now) => choose(now, tag, value, box.checked)));
    const name = make("span", "name", short(plain(value), 120));
    name.title = plain(value);
    label.append(box, name, make("span", "count", has === undefined ? "" : number(has)));
    return label;
  });
  const list = make("div", "values", ...rows), all = [list];
  if (whole.has(tag)) {
    if (rows.length > 2 * LISTED) all.unshift(finder(list, tag));
    if (facet.distinct > counted.length) {
      all.push(make("p", "aside", "The most frequent " + number(counted.length) + " of " + number(facet.distinct)));
    }
    all.push(unfold(tag, "Show fewer", () => { whole.delete(tag); redraw(); }));
  } else if (facet.distinct > counted.length) {
    all.push(unfold(tag, "Show all " + number(Math.min(facet.distinct, ALL)), () => { whole.add(tag); redraw(); }));
  }
  return all;
}

function unfold(tag, label, onclick) {
  const node = button("quiet", label, onclick);
  node.dataset.key = "unfold " + tag;
  return node;
}

// Hides the values that don't have what is typed.
function finder(list, tag) {
  const field = make("input", "find");
  field.type = "search";
  field.placeholder = "Find one";
  field.setAttribute("aria-label", "Find a value of " + heading(tag));
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of list.children) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
  return field;
}

function ranges(state, tag, facet, ask) {
  const now = state.ranges.get(tag) || {};
  const set = (range) => ask((next) => limit(next, tag, range));
  const rows = (facet.ranges || []).map(({ from, to, count: often }) => {
    const range = { ...(from === null ? {} : { from }), ...(to === null ? {} : { below: to }) };
    const on = now.from === range.from && now.below === range.below && now.to === undefined && state.ranges.has(tag);
    const node = button("range", "", () => set(on ? {} : range));
    node.append(make("span", "name", between(range)), make("span", "count", number(often)));
    node.setAttribute("aria-pressed", String(on));
    node.dataset.key = "range " + tag + " " + between(range);
    return node;
  });
  const end = (name, label, hint) => {
    const field = make("input");
    const value = name === "from" ? now.from : now.to ?? now.below;
    field.type = "number";
    field.step = "any";
    field.value = value ?? "";
    field.placeholder = hint ?? "";
    field.dataset.key = name + " " + tag;
    field.setAttribute("aria-label", heading(tag) + ", " + label);
    return field;
  };
  const from = end("from", "least", facet.min), to = end("to", "most", facet.max);
  const read = (field) => field.value.trim() === "" || !Number.isFinite(Number(field.value)) ? undefined : Number(field.value);
  const changed = () => set({
    from: read(from),
    ...(read(to) === now.below ? { below: now.below } : { to: read(to) }),
  });
  for (const field of [from, to]) field.addEventListener("change", changed);
  return [make("div", "values", ...rows), make("div", "ends", from, make("span", "", "to"), to)];
}

// What is chosen, above the results: each can be taken away again.
export function drawChosen(state, ask) {
  const chip = (label, change) => {
    const node = button("chip", "", () => ask(change));
    node.append(make("span", "name", short(label, 60)), make("span", "x", "×"));
    node.setAttribute("aria-label", "Remove the filter " + short(label, 200));
    node.title = short(label, 500);
    return make("li", "", node);
  };
  const chips = [];
  for (const [tag, all] of state.chosen) {
    for (const value of all) chips.push(chip(heading(tag) + ": " + plain(value), (now) => choose(now, tag, value, false)));
  }
  for (const [tag, range] of state.ranges) chips.push(chip(heading(tag) + ": " + between(range), (now) => limit(now, tag, {})));
  if (state.filter) chips.push(chip(state.filter, (now) => ({ ...now, filter: "" })));
  if (chips.length > 1) chips.push(make("li", "", button("quiet", "Clear all", () => ask(unfiltered))));
  $("chosen").replaceChildren(...chips);
  $("chosen").hidden = !narrowed(state);
}

