"use strict";
const network = JSON.parse(document.body.dataset.network);
const element = (id) => document.getElementById(id);
const classes = document.body.classList;
let image = null; // {key, width, height, label, ...} of the image that is shown
let view = "classes"; // or the name of a map
let maps = null; // of this image, {name: {width, height, values}}; where maps belong to a pixel, of the last one asked for
let wanted = null; // the pixel whose maps are wanted, [row, column]; a new array each time
let asking = false;

function showMessage(sentence, isError = false) {
  element("message").hidden = !sentence;
  element("message").textContent = sentence;
  element("message").classList.toggle("error", isError);
}

async function ask(path, body) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, ...body });
  } catch {
    throw new Error("the server does not answer; look at its terminal, then try again");
  }
  const answer = await response.json().catch(() => ({ error: `the server failed (${response.status})` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function unpacked({ width, height, data }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return { width, height, values: new Uint8Array(await new Response(stream).arrayBuffer()) };
}

async function segment(file) {
  if (classes.contains("busy")) return;
  if (file.size > network.megabytes * 1e6) {
    showMessage(`the file has ${(file.size / 1e6).toFixed(1)} MB, expected at most ${network.megabytes}`, true);
    return;
  }
  classes.add("busy");
  showMessage("Segmenting the image ...");
  try {
    const answer = await ask(`segment?name=${encodeURIComponent(file.name)}`, { body: file });
    image = { ...answer, ...(await unpacked(answer.label)) };
    maps = wanted = null;
    element("input-image").src = answer.image;
    await element("input-image").decode();
    listAreas();
    describe(file.name);
    element("result").hidden = false;
    classes.add("done");
    show(view);
  } catch (error) {
    showMessage(error.message, true);
  }
  classes.remove("busy");
}

function describe(name) {
  const [height, width] = image.input;
  const scaled = width === image.width && height === image.height ? "" : `, to the network ${width}x${height}`;
  showMessage(`${name}: ${image.width}x${image.height} pixels${scaled}, ${image.seconds.toFixed(1)} s`);
  element("here").textContent = "Move over the image to see the class of a pixel.";
}

function listAreas() {
  const total = image.width * image.height;
  const order = [...image.areas.keys()].sort((one, other) => image.areas[other] - image.areas[one]);
  const rows = order.filter((id) => image.areas[id]).map((id) => {
    const row = document.createElement("tr");
    const swatch = document.createElement("i");
    swatch.className = "swatch";
    swatch.style.background = `rgb(${network.palette[id]})`;
    const share = (100 * image.areas[id]) / total;
    for (const text of [network.classes[id], share < 0.05 ? "< 0.1%" : share.toFixed(1) + "%", image.areas[id].toLocaleString("en")]) {
      row.insertCell().textContent = text;
      row.lastChild.className = row.cells.length > 1 ? "number" : "";
    }
    row.cells[0].prepend(swatch);
    row.dataset.id = id;
    return row;
  });
  element("areas").replaceChildren(...rows);
  const absent = order.filter((id) => !image.areas[id]).map((id) => network.classes[id]);
  element("absent").textContent = absent.length ? `Not seen: ${absent.join(", ")}` : "";
}

function paint({ width, height, values }, colors, opacity = () => 255) {
  const layer = element("layer");
  [layer.width, layer.height] = [width, height];
  const context = layer.getContext("2d");
  const pixels = context.createImageData(width, height);
  const table = new Uint32Array(256); // one write per pixel; little-endian, as all browsers' machines are
  colors.forEach(([red, green, blue], id) => (table[id] = red | (green << 8) | (blue << 16) | (opacity(id) << 24)));
  const words = new Uint32Array(pixels.data.buffer);
  for (let place = 0; place < values.length; place++) words[place] = table[values[place]];
  context.putImageData(pixels, 0, 0);
}

function paintMap() {
  // The image shows where there is little.
  paint(maps[view], network.colors, (level) => 100 + 0.6 * level);
}

function show(name) {
  view = name;
  for (const button of element("views").children) button.setAttribute("aria-pressed", button.value === view);
  classes.toggle("map", view !== "classes");
  element("mark").hidden = true;
  if (view === "classes") return paint(image, network.palette);
  if (maps) paintMap();
  if (network.queries || !maps) askForMaps(wanted ?? [image.height >> 1, image.width >> 1]);
}

async function askForMaps(pixel) {
  wanted = pixel; // one request at a time, and the newest pixel next: what lay between is left out
  placeMark();
  if (asking) return;
  asking = true;
  let asked = null;
  while (wanted && wanted !== asked && view !== "classes") {
    asked = wanted;
    const key = image.key;
    const body = JSON.stringify({ key, row: asked[0], column: asked[1] });
    try {
      const answer = await ask("maps", { body, headers: { "Content-Type": "application/json" } });
      const names = Object.keys(answer);
      const values = await Promise.all(names.map((map) => unpacked(answer[map])));
      if (key !== image.key) continue; // of the image before
      maps = Object.fromEntries(names.map((map, number) => [map, values[number]]));
      if (view !== "classes") paintMap();
    } catch (error) {
      showMessage(error.message, true);
      break;
    }
  }
  asking = false;
}

function placeMark() {
  const mark = element("mark");
  mark.hidden = !network.queries;
  mark.style.top = `${(100 * (wanted[0] + 0.5)) / image.height}%`;
  mark.style.left = `${(100 * (wanted[1] + 0.5)) / image.width}%`;
}

function point(event) {
  if (!image) return;
  const box = element("stage").getBoundingClientRect();
  const within = (share, size) => Math.min(Math.max(Math.floor(share * size), 0), size - 1);
  const row = within((event.clientY - box.top) / box.height, image.height);
  const column = within((event.clientX - box.left) / box.width, image.width);
  const id = image.values[row * image.width + column];
  element("here").textContent = `row ${row}, column ${column}: ${network.classes[id]}`;
  for (const line of element("areas").rows) line.classList.toggle("here", Number(line.dataset.id) === id);
  if (network.queries && view !== "classes") askForMaps([row, column]);
}

function addViews() {
  const kind = network.queries ? "Attention" : "Scale";
  const labels = { classes: "Classes", quarter: `${kind}, 1/4`, half: `${kind}, 1/2` };
  for (const name of ["classes", ...network.maps]) {
    const button = document.createElement("button");
    [button.type, button.value, button.textContent] = ["button", name, labels[name] ?? `${kind} ${name}`];
    button.addEventListener("click", () => show(name));
    element("views").append(button);
  }
  element("views").hidden = !network.maps.length;
}

addViews();
const fade = () => (element("layer").style.opacity = element("opacity").value / 100);
element("opacity").addEventListener("input", fade);
fade();
for (const kind of ["pointermove", "pointerdown"]) element("stage").addEventListener(kind, point);
element("input-image").draggable = false;
element("file").addEventListener("change", (event) => {
  if (event.target.files.length) segment(event.target.files[0]);
  event.target.value = ""; // so that the same file can be chosen again
});
addEventListener("dragover", (event) => { event.preventDefault(); classes.add("over"); });
addEventListener("dragleave", (event) => { if (!event.relatedTarget) classes.remove("over"); });
addEventListener("drop", (event) => {
  event.preventDefault();
  classes.remove("over");
  if (event.dataTransfer.files.length) segment(event.dataTransfer.files[0]);
});
addEventListener("paste", (event) => { if (event.clipboardData.files.length) segment(event.clipboardData.files[0]); });
