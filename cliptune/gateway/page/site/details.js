// One document in a dialog: its picture, its tags (each a filter), and more like it.
import { $, button, make } from "./dom.js";
import * as pictures from "./pictures.js";
import { plain, short, titleOf } from "./words.js";

const scalar = (value) => ["string", "number", "boolean"].includes(typeof value);

// A tag's value: those that can be filtered by are buttons.
function cell(name, value, only) {
  const values = Array.isArray(value) ? value : [value];
  if (!values.length || values.length > 20 || !values.every(scalar)) return make("dd", "", short(plain(value), 2000));
  return make("dd", "", ...values.map((one) => {
    const link = button("only", short(plain(one), 200), () => { $("dialog").close(); only(name, one); });
    link.title = "Only those with this " + short(name, 60);
    return link;
  }));
}

// `only` filters by a tag's value.
export function open(match, withScore, only) {
  pictures.show($("dialog").querySelector(".tile"), match.id, short(titleOf(match), 300));
  $("dialog-title").textContent = short(titleOf(match), 2000);
  const rows = [[make("dt", "", "id"), make("dd", "", match.id)]];
  for (const [name, value] of Object.entries(match.tags || {}).slice(0, 200)) {
    rows.push([make("dt", "", short(name, 80)), cell(name, value, only)]);
  }
  if (withScore) rows.push([make("dt", "", "similarity"), make("dd", "", match.score.toFixed(4))]);
  $("dialog").querySelector("dl").replaceChildren(...rows.flat());
  $("dialog").showModal();
  $("dialog").querySelector(".view").scrollTop = 0;
}
