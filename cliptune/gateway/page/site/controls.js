// The controls of order, groups and options: those that this service can answer, as a search has them.
import { $, make } from "./dom.js";
import { groupable, sortable } from "./facets.js";
import { wordsCount } from "./service.js";
import { VARIED, WEIGHTS, seeks, textAlone } from "./state.js";
import { heading, short } from "./words.js";

function options(select, pairs, now) {
  if (now && !pairs.some(([value]) => value === now)) pairs.push([now, short(now, 40)]);
  select.replaceChildren(...pairs.map(([value, label]) => {
    const one = make("option", "", label);
    one.value = value;
    one.selected = value === now;
    return one;
  }));
}

// A switch that isn't there without the service's part in it, and says why it can't be used now.
function offer(id, offered, on, usable, why) {
  const box = $(id), label = box.closest("label");
  label.hidden = !offered && !on;
  box.checked = on && usable;
  box.disabled = !usable;
  label.querySelector("small").textContent = usable ? "" : why;
}

// Draw them; `service` is what /status and /tags tell, null as long as that isn't known.
export function draw(state, service) {
  const tags = service?.tags || [];
  const quoted = (tag) => /^[A-Za-z_]\w*$/.test(tag) ? tag : "`" + tag.replaceAll("`", "``") + "`";
  const orders = sortable(tags).slice(0, 20).flatMap(({ name }) => [
    [quoted(name), heading(name) + ": low to high"], [quoted(name) + " desc", heading(name) + ": high to low"]]);
  options($("sort"), [["", "Best first"], [VARIED, "Varied"], ...orders], state.sort);
  const groups = groupable(tags).slice(0, 100).map(({ name }) => [name, "one per " + heading(name)]);
  options($("group"), [["", "each picture"], ...groups], state.group);
  $("group").closest("label").hidden = !groups.length && !state.group;
  const sought = seeks(state);
  offer("words", sought && service?.status.index?.words === true, state.words, wordsCount(state),
    state.q ? "Not with groups or a varied order" : "Of a text");
  offer("fits", sought && service?.status.model?.calibrated === true, state.fit > 0, textAlone(state), "Of a text without a picture");
  $("options").hidden = [...$("options").children].every((one) => one.hidden);
  $("filter").value = state.filter;
  if (state.filter) $("own").open = true;
  const at = WEIGHTS.reduce((best, one, i) => Math.abs(one - state.weight) < Math.abs(WEIGHTS[best] - state.weight) ? i : best, 0);
  $("weight").value = at;
  $("weight").setAttribute("aria-valuetext", ["the picture most", "the picture more", "both", "the words more", "the words most"][at]);
  $("balance").hidden = !state.q || !(state.picture || state.like);
}
