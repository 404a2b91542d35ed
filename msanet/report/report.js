"use strict";
// Attention maps: a click or an arrow key chooses the query; style sheets show its map out of the sprite.
for (const figure of document.querySelectorAll("figure[data-rows]")) {
  const input = figure.querySelector("img.choose"), maps = figure.querySelector(".maps"), data = figure.dataset;
  const limits = { row: Number(data.rows), column: Number(data.columns) };
  const choose = (row, column) => {
    for (const [name, place] of [["row", row], ["column", column]]) {
      data[name] = Math.min(Math.max(place, 0), limits[name] - 1);
      figure.style.setProperty("--" + name, data[name]);
    }
    maps.querySelector("output").textContent =
      `query in row ${Number(data.row) + 1} of ${limits.row}, column ${Number(data.column) + 1} of ${limits.column}`;
  };
  const click = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    maps.open = true;
    choose(
      Math.floor(((event.clientY - box.top) / box.height) * limits.row),
      Math.floor(((event.clientX - box.left) / box.width) * limits.column),
    );
  };
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const key = (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault(); // the page would scroll
    choose(Number(data.row) + step[0], Number(data.column) + step[1]);
  };
  for (const stack of maps.querySelectorAll(".stack")) {
    stack.querySelector("img").src = input.src; // kept once in the file
    stack.addEventListener("click", click);
    stack.addEventListener("keydown", key);
  }
  input.addEventListener("click", click);
  maps.hidden = false;
  choose(Number(data.row), Number(data.column));
}
