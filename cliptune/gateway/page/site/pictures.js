// Pictures on the page: those of documents, and those that somebody searches by.
import { make } from "./dom.js";
import { pictureSource } from "./service.js";

const LARGEST = 12 * 1024 * 1024;

// Grows into the shape that most pictures have: portraits, squares or landscapes.
const ratios = [];
function fitTiles(image) {
  ratios.push(image.naturalWidth / image.naturalHeight);
  if (ratios.length > 200) ratios.shift();
  const middle = [...ratios].sort((a, b) => a - b)[ratios.length >> 1];
  const shape = middle < 0.87 ? "3 / 4" : middle > 1.15 ? "4 / 3" : "1";
  document.documentElement.style.setProperty("--shape", shape);
}

// Show a document's picture in a tile.
export function show(tile, id, alt, eager = true) {
  const image = make("img");
  tile.classList.remove("broken");
  image.loading = eager ? "eager" : "lazy";
  image.decoding = "async";
  image.onload = () => {
    if (tile.classList.contains("tile")) fitTiles(image);
    if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  };
  image.onerror = () => tile.classList.add("broken");
  image.alt = alt;
  pictureSource(id).then((url) => { image.src = url; }, () => image.onerror());
  tile.replaceChildren(image);
}

// Somebody's pictures, as data: URIs, by the names that the page's address has for them.
const held = new Map();

export const pictureOf = (name) => held.get(name) || null;

// A file's picture: the name that it is held by, or a title and a sentence why it can't be.
export function hold(file, done, refuse) {
  const called = "“" + (file.name || "It").slice(0, 60) + "”";
  if (file.type && !file.type.startsWith("image/")) {
    return refuse("That is not a picture", called + " is a file of another kind (" + file.type + ").");
  }
  if (file.size > LARGEST) {
    return refuse("That picture is too large", "It has " + Math.ceil(file.size / 2 ** 20) + " MB, the limit is 12 MB.");
  }
  const reader = new FileReader();
  reader.onload = () => {
    const name = Date.now().toString(36) + "-" + held.size;
    held.set(name, reader.result);
    done(name);
  };
  reader.onerror = () => refuse("That picture can't be read", "The browser can't open " + called + ".");
  reader.readAsDataURL(file);
}
