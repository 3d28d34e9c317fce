// The search page: what is asked for, and what stands on the page for it.
import * as comparison from "./compare.js";
import * as controls from "./controls.js";
import * as details from "./details.js";
import { $, button, make } from "./dom.js";
import * as dropping from "./dropping.js";
import * as facets from "./facets.js";
import * as pictures from "./pictures.js";
import * as results from "./results.js";
import * as sentences from "./sentences.js";
import { Failure, ORDERED, PAGE, call, chose, documentOf, find, hasKey, otherModel, useKey } from "./service.js";
import { meant } from "./spelling.js";
import {
  EVEN, FITS, WEIGHTS, asking, choose, fromAddress, narrowed, seeks, textAlone, toAddress, unfiltered,
} from "./state.js";
import { number, plain, short, valuesAt } from "./words.js";

const DEEPEST = 9000;
const BY_ITSELF = 5;  // pages that come by scrolling; then one asks for them, and what is below is reached
let state = asking();
let shown = [], pages = 0;
let running = new AbortController();  // the search on its way: a newer one aborts it
let service = null, learning = null;  // what /status and /tags tell
let opened = null, like = null;  // documents: in the dialog, and searched by
let folded = false;  // the filters beside the results

// What people can do about what is told, by the name that it has there.
const ACTIONS = {
  again: ["Try again", () => ask(state, false)],
  back: ["Back to the search", () => ask(state, false)],
  key: ["Enter a key", () => askForKey("")],
  choose: ["Choose another picture", () => $("file").click()],
  plain: ["Search without filters and options", () => ask({ q: state.q, like: state.like, picture: state.picture })],
  unfiltered: ["Search without the filter", () => ask(unfiltered(state))],
  nearest: ["Show the nearest anyway", () => ask({ ...state, fit: 0 })],
};

function askForKey(why) {
  if ($("key").open) return;
  if (why) $("key-why").textContent = why;
  $("key").showModal();
}

// What stands on the page: these parts, and none besides.
const PARTS = ["examples", "grid", "sides", "compare", "ordered", "hint", "more", "state"];
let parts = [];
function place(...names) {
  parts = names;
  for (const name of PARTS) $(name).hidden = !parts.includes(name);
  if (!sides()) $("compare").hidden = true;
  if (!parts.includes("grid")) $("grid").replaceChildren();
  if (!parts.includes("sides")) $("sides").replaceChildren();
}

const sides = () => comparison.sides(service?.status.index?.generations || {});

function note(title, text, { bad = false, isCode = false, action = null } = {}) {
  const [label, act] = action ? ACTIONS[action] : ["", null];
  $("state").className = (bad ? "error" : "") + (isCode ? " code" : "");
  $("state").setAttribute("role", bad ? "alert" : "status");
  $("state").querySelector("h2").textContent = title;
  $("state").querySelector("p").textContent = text;
  $("act").hidden = !label;
  $("act").textContent = label;
  $("act").onclick = act;
}

function fail(error) {
  const known = error instanceof Failure;
  if (!known) console.error(error);
  if (error.status === 401) askForKey(hasKey() ? "This key is not known here." : "");
  const plainly = toAddress(asking({ q: state.q, like: state.like, picture: state.picture }));
  const useless = error.action === "plain" && toAddress(state) === plainly;
  warn([]);
  say("");
  note(known ? error.title : "The page has a problem", error.message,
    { bad: true, isCode: error.isCode, action: useless ? null : error.action });
  place("state");
}

function warn(warnings) {
  $("warnings").hidden = !warnings.length;
  $("warnings").replaceChildren(...[...new Set(warnings)].map((text) => make("li", "", text)));
}

function say(before, strong, ...after) {
  $("said").replaceChildren(before);
  if (!strong) return;
  const told = make("b", "told", short(strong, 160));
  told.title = state.q || strong;
  $("said").append(told, ...after);
}

const sought = () => sentences.sought(state, like);

// What is there to filter and order by, and what this service can do: asked for once, or `anew`.
function learn(anew = false) {
  if (!learning || anew) {
    learning = Promise.all([call("status"), call("tags").catch(() => ({ tags: [] }))]).then(([status, told]) => {
      service = { status, tags: told.tags };
      controls.draw(state, service);
      place(...parts);
      settle();
    });
    learning.catch(() => { learning = null; });
  }
  return learning;
}

async function filters(signal) {
  facets.drawChosen(state, (change) => ask(change(state)));
  await learn();
  if (signal.aborted) return;
  await facets.draw(state, service.tags, signal, (change) => ask(change(state)));
  if (!signal.aborted && shown.length) suggest();
}

async function compare() {
  const { signal } = running;
  say("Searching with both models…");
  place("compare");
  try {
    await learn();
    if (signal.aborted) return;
    const two = sides();
    if (!two) {
      state.compare = false;
      return await list(["There is one model now, and nothing to compare it with. Another one is prepared by: " +
        "cliptune swap --artifact NEW --prepare"]);
    }
    const answers = await Promise.all(two.map(({ slot }) =>
      find(state, image(), { limit: comparison.RANKED, model: slot, signal })));
    warn(answers.flatMap((answer) => answer.warnings));
    if (answers.every((answer) => !answer.matches.length)) return nothing(answers[0].total);
    place("sides", "compare");
    say("", sought(), ": " + comparison.draw(two, answers.map((answer) => answer.matches), open));
  } catch (error) {
    if (!signal.aborted) fail(error);
  }
}

const image = () => pictures.pictureOf(state.picture);

function nothing(total) {
  const [title, text, action] = sentences.nothing(state, total, state.fit && textAlone(state));
  if (!total && !action) warn([]);  // the title says it
  say("");
  note(title, text, { action });
  place("state");
  suggest();
}

function wait() {
  shown = [];
  pages = 0;
  results.ghosts();
  $("grid").setAttribute("aria-busy", "true");
  place("grid");
}

// The first page of what is found, or of what the filters leave where nothing is sought.
async function list(problems) {
  const { signal } = running, started = performance.now();
  say("Searching…");
  wait();
  try {
    const found = await find(state, image(), { signal });
    if (signal.aborted) return;
    warn([...problems, ...found.warnings]);
    if (!found.matches.length) return nothing(found.total);
    $("grid").replaceChildren();
    add(found, make("span", "took", " in\u00a0" + number(Math.round(performance.now() - started)) + "\u00a0ms"));
    suggest();
  } catch (error) {
    if (!signal.aborted) fail(error);
  } finally {
    if (!signal.aborted) $("grid").removeAttribute("aria-busy");
  }
}

function add(found, ...took) {
  results.add(found.matches, shown.length, { withScore: seeks(state), open, openGroup });
  shown = shown.concat(found.matches);
  const last = Math.min(found.groups ?? found.total ?? DEEPEST, state.sort ? ORDERED : DEEPEST);
  const rest = found.matches.length === PAGE && shown.length < last;
  place("grid", "compare", "ordered", "hint", ...(rest ? ["more"] : []));
  const told = sentences.counted(state, shown.length, found), order = sentences.ordered(state, found);
  if (seeks(state)) say(told + " for ", sought(), order, ...took);
  else say(told + order);
}

// The next page; `focus` goes to its first card where somebody pressed the button.
async function next(focus) {
  const { signal } = running, first = shown.length;
  $("more").disabled = true;
  pages++;
  try {
    const found = await find(state, image(), { offset: first, signal });
    if (signal.aborted) return;
    add(found);
    if (focus) $("grid").children[first]?.firstChild.focus();
  } catch (error) {
    if (signal.aborted) return;
    pages = BY_ITSELF;  // what is there stays, and the button asks again
    note(error.title || "That didn't work", error.message, { bad: true });
    place("grid", "compare", "ordered", "hint", "state", "more");
  } finally {
    $("more").disabled = false;
    watch();
  }
}

// Whoever comes near the end gets the next page by itself.
const near = "IntersectionObserver" in window ? new IntersectionObserver(([entry]) => {
  if (entry.isIntersecting && pages < BY_ITSELF && !$("more").hidden && !$("more").disabled) next(false);
}, { rootMargin: "500px" }) : null;
function watch() {
  near?.unobserve($("more"));
  near?.observe($("more"));  // tells where it is now
}

// Whether the query has words that nothing found has, but for a letter.
function suggest() {
  const texts = shown.flatMap((match) => [match.text || "", ...Object.values(match.tags || {}).map(plain)]);
  const better = state.q ? meant(state.q, [...texts, ...facets.valuesListed()]) : null;
  $("meant").hidden = !better;
  if (better) $("meant").replaceChildren("Did you mean ", button("only", short(better, 80), () => ask({ ...state, q: better })), "?");
}

// Some of what there is, and titles as examples, before anything is asked for.
async function browse(problems) {
  const { signal } = running;
  say("");
  wait();
  try {
    await learn();
    if (signal.aborted) return;
    const { status } = service;
    if (!status.searchable) throw otherModel();
    if (!status.documents) return nothing(0);
    const { matches, total, warnings } = await find(state, null, { limit: 60, signal });
    if (signal.aborted) return;
    warn([...problems, ...warnings]);
    if (!matches.length) return nothing(total);
    const titles = [...new Set(matches.map((m) => m.text).filter((t) => t && t.length < 48))];
    const some = titles.map((t) => [Math.random(), t]).sort((a, b) => a[0] - b[0]).slice(0, 5);
    $("examples").replaceChildren(...some.map(([, text]) => make("li", "", button("", text, () => ask({ ...state, q: text })))));
    const told = new Set();
    const isNew = (match) => !told.has(match.text || match.id) && told.add(match.text || match.id);
    shown = matches.filter(isNew).slice(0, 20);
    $("grid").replaceChildren();
    results.add(shown, 0, { withScore: false, open, openGroup });
    say(sentences.counted(state, shown.length, { total: total ?? status.documents }));
    place("examples", "grid", "hint");
  } catch (error) {
    if (!signal.aborted) fail(error);
  } finally {
    if (!signal.aborted) $("grid").removeAttribute("aria-busy");
  }
}

// The picture, or the document, that is searched by stands beside the words.
function thumb() {
  const tile = $("thumb"), data = image();
  tile.hidden = !state.picture && !state.like;
  tile.replaceChildren();
  if (state.like) pictures.show(tile, state.like, "The picture that others are to be like");
  if (!data) return;
  const shownImage = make("img");
  shownImage.alt = "The picture searched by";
  shownImage.onerror = () => { shownImage.remove(); tile.classList.add("broken"); };
  shownImage.src = data;
  tile.classList.remove("broken");
  tile.append(shownImage);
}

// Search: the one way to another state of the page. `problems` are told beside what is found.
function ask(given, push = true, problems = []) {
  running.abort();
  running = new AbortController();
  const { signal } = running;
  state = asking(given);
  state.q = state.q.trim();
  state.filter = state.filter.trim();
  if (state.like !== like?.id) like = null;
  $("compare").setAttribute("aria-pressed", String(state.compare));
  $("query").value = state.q;
  thumb();
  controls.draw(state, service);
  $("meant").hidden = true;
  warn([]);
  const address = location.pathname + toAddress(state);
  if (push && address !== location.pathname + location.search) history.pushState(null, "", address);
  document.body.classList.toggle("searched", seeks(state));
  document.title = seeks(state) ? short(sought(), 60) + " – search pictures" : "Search pictures";
  scrollTo(0, 0);
  const looksAround = !(seeks(state) || narrowed(state) || state.group || state.sort);
  learn(looksAround || state.compare).catch(() => {});
  filters(signal).catch(() => {});  // the search itself says what is wrong
  if (state.picture && !image()) {
    return fail(new Failure("The picture isn't in the link", "A picture that is searched by stays in the tab where it " +
      "was chosen. Choose it again to have this search.", "choose"));
  }
  if (state.like && !like) name(signal);
  if (state.compare && seeks(state)) return compare();
  return looksAround ? browse(problems) : list(problems);
}

// The document that others are to be like is called by its title, once that is known.
async function name(signal) {
  const found = await documentOf(state.like, signal).catch(() => null);
  if (signal.aborted || !found) return;
  like = found;
  const told = $("said").querySelector(".told");
  if (told) told.textContent = sought();
}

function open(match) {
  chose(match);
  opened = match;
  details.open(match, seeks(state), (tag, value) => ask(choose(state, tag, value, true)));
}

// All documents of a match's group, as a filter that can be taken away again.
function openGroup(match) {
  const [value] = valuesAt(match.tags, state.group);
  if (value !== undefined) ask(choose({ ...state, group: "" }, state.group, value, true));
}

function refuse(title, text) {
  running.abort();  // what is on its way is not shown over this
  running = new AbortController();
  fail(new Failure(title, text, "back"));
}

// The filters stand beside the results where there is room, else in a sheet over them.
const wide = matchMedia("(min-width: 960px)");
function settle() {
  if (wide.matches && $("sheet").open) $("sheet").close();
  const place = wide.matches ? $("side") : $("sheet-inside");
  if ($("facets").parentNode !== place) place.append($("facets"));
  $("side").hidden = !wide.matches || folded || !(service?.tags.length || state.filter);
  $("narrow").setAttribute("aria-expanded", String(wide.matches ? !$("side").hidden : $("sheet").open));
}

function fromURL() {
  for (const one of ["dialog", "sheet"]) if ($(one).open) $(one).close();
  const { state: given, problems } = fromAddress(location.search);
  ask(given, false, problems);
}

$("key").addEventListener("close", () => {
  const given = $("key-text").value.trim();
  $("key-text").value = "";
  if (!given) return;
  useKey(given);
  facets.forget();
  fromURL();
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask({ ...state, q: $("query").value, filter: $("filter").value });
});
$("narrow").addEventListener("click", () => {
  if (wide.matches) folded = !$("side").hidden;
  else $("sheet").showModal();
  settle();
});
$("sheet").addEventListener("close", settle);
for (const one of ["dialog", "sheet"]) {
  $(one).addEventListener("click", (event) => { if (event.target === $(one)) $(one).close(); });
  for (const way of $(one).querySelectorAll(".closes")) way.addEventListener("click", () => $(one).close());
}
$("compare").addEventListener("click", () => ask({ ...state, compare: !state.compare }));
$("sort").addEventListener("change", () => ask({ ...state, sort: $("sort").value }));
$("group").addEventListener("change", () => ask({ ...state, group: $("group").value }));
$("words").addEventListener("change", () => ask({ ...state, words: $("words").checked }));
$("fits").addEventListener("change", () => ask({ ...state, fit: $("fits").checked ? FITS : 0 }));
$("weight").addEventListener("change", () => ask({ ...state, weight: WEIGHTS[$("weight").value] ?? EVEN }));
$("thumb").addEventListener("click", () => {
  ask({ ...state, q: $("query").value, picture: "", like: "" });
  $("query").focus();
});
$("more").addEventListener("click", () => next(true));
$("like").addEventListener("click", () => {
  $("dialog").close();
  like = opened;
  ask({ ...state, q: "", picture: "", like: opened.id, weight: EVEN });
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches?.("input, select");
  if (event.key === "/" && !typing) { event.preventDefault(); $("query").focus(); $("query").select(); }
  else if (event.key === "Escape" && !typing) { $("query").focus(); $("query").select(); }
  else if (event.key.startsWith("Arrow") && (!typing || (event.key === "ArrowDown" && event.target === $("query")))) {
    if (results.move(event.key)) event.preventDefault();
  }
});
dropping.listen((file) => pictures.hold(file, (picture) =>
  ask({ ...state, q: $("query").value, picture, like: "" }), refuse));
addEventListener("popstate", fromURL);
wide.addEventListener("change", settle);
watch();
fromURL();
if (matchMedia("(hover: hover)").matches) $("query").focus();
