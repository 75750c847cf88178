"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const state = { album: 0, column: 0, row: 0 };
const album = () => data.albums[state.album];
const clamp = (number, count) => Math.max(0, Math.min(count - 1, number));

function nearest(values, wanted) {
  const far = values.map((value) => Math.abs(Number(value) - wanted));
  return Math.max(0, far.indexOf(Math.min(...far)));
}

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function place(column, row) {
  const { setting, values, seeds } = album();
  return `${setting} ${values[column]}, seed ${seeds[row]}`;
}

function cellAt(column, row) {
  return album().cells[`${album().values[column]}/${album().seeds[row]}`];
}

function show() {
  const { setting, values } = album();
  const cell = cellAt(state.column, state.row);
  const where = place(state.column, state.row);
  const number = Number(values[state.column]);
  const useful = setting === "eta" && number >= data.useful[0] && number <= data.useful[1];
  at("value").textContent = values[state.column] + (useful ? ", in the paper's useful range" : "");
  at("eta").value = state.column;
  at("eta").setAttribute("aria-valuetext", `${setting} ${values[state.column]}`);
  at("caption").textContent = where + (cell.withheld ? ", withheld by the safety checker" : "");
  for (const id of ["after", "over"]) {
    at(id).hidden = !cell.src;
    if (cell.src) at(id).src = cell.src;
    at(id).alt = `The edit at ${where}`;
  }
  for (const note of document.querySelectorAll(".missing")) {
    note.hidden = Boolean(cell.src);
    note.textContent = `There is no picture at ${where}. The command below makes it.`;
  }
  at("line").hidden = !cell.src;
  at("command").textContent = cell.command;
  at("original").hidden = !cell.original;
  if (cell.original) at("original").href = cell.original;
  const figures = Object.entries(cell.figures || {});
  at("figures").replaceChildren(...figures.map(([name, figure]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, figure))));
  at("seeds").querySelectorAll("input")[state.row].checked = true;
  for (const button of at("grid").querySelectorAll("button")) {
    const chosen = button.dataset.place === `${state.column}/${state.row}`;
    button.setAttribute("aria-pressed", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
  }
}

function pick(column, row) {
  state.column = clamp(column, album().values.length);
  state.row = clamp(row, album().seeds.length);
  show();
}

function seedChoices() {
  at("seeds").replaceChildren(...album().seeds.map((seed, row) => {
    const radio = element("input", { type: "radio", name: "seed", value: row });
    radio.addEventListener("change", () => pick(state.column, row));
    return element("label", {}, radio, ` ${seed}`);
  }));
}

function thumbnail(column, row) {
  const cell = cellAt(column, row);
  const inner = cell.src ? element("img", { src: cell.src, alt: "", decoding: "async" }) : "–";
  const label = place(column, row) + (cell.src ? "" : ", missing");
  const button = element("button", { type: "button", "aria-label": label, "data-place": `${column}/${row}` }, inner);
  button.addEventListener("click", () => pick(column, row));
  return element("td", {}, button);
}

function grid() {
  const { setting, values, seeds } = album();
  if (values.length * seeds.length > data.mostCells) {
    at("grid").replaceChildren(`${values.length} by ${seeds.length} pictures are too many to show at once.`);
    return;
  }
  const head = element("tr", {}, element("th", {}, setting), ...values.map((value) => element("th", { scope: "col" }, value)));
  const rows = seeds.map((seed, row) => element("tr", {}, element("th", { scope: "row" }, `seed ${seed}`),
    ...values.map((_value, column) => thumbnail(column, row))));
  at("grid").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
}

function choose(index) {
  const before = data.albums[state.album];
  const [value, seed] = [Number(before.values[state.column]), before.seeds[state.row]];
  state.album = index;
  const same = album().setting === before.setting;
  state.column = nearest(album().values, same ? value : 0.7);
  state.row = Math.max(0, album().seeds.indexOf(seed));
  for (const name of document.querySelectorAll(".setting")) name.textContent = album().setting;
  at("eta").max = album().values.length - 1;
  at("prompt").hidden = album().text === data.albums[0].text;
  at("prompt").textContent = `Text: ${album().text}`;
  for (const each of document.querySelectorAll(".plotted")) each.hidden = Number(each.dataset.album) !== index;
  seedChoices();
  grid();
  show();
}

function view(name) {
  at("stage").hidden = name === "wipe";
  at("wiper").hidden = name !== "wipe";
  document.querySelector(`[name="view"][value="${name}"]`).checked = true;
}

function wipe() {
  const share = Number(at("wipe").value);
  at("over").style.clipPath = `inset(0 0 0 ${share}%)`;
  at("line").style.left = `${share}%`;
  at("wipe").setAttribute("aria-valuetext", `${share} % input`);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  // Controls keep their own keys.
  if (event.target.closest("input, select, textarea")) return;
  const inside = event.target.closest("#stage, #grid");
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ...(inside && { ArrowUp: [0, -1], ArrowDown: [0, 1] }) };
  if (event.key === "w" || event.key === "W") {
    view(at("wiper").hidden ? "wipe" : "side");
  } else if (event.key in steps) {
    const [column, row] = steps[event.key];
    pick(state.column + column, state.row + row);
    if (event.target.closest("#grid")) at("grid").querySelector("[aria-pressed=true]")?.focus();
  } else {
    return;
  }
  event.preventDefault();
}

async function copy(button) {
  const text = at(button.dataset.copies).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Some browsers give pages from files no clipboard: the old way still works.
    const range = document.createRange();
    range.selectNodeContents(at(button.dataset.copies));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  at("told").textContent = "Copied.";
  setTimeout(() => { button.textContent = "Copy"; at("told").textContent = ""; }, 1500);
}

at("before").src = data.input.src;
for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => copy(button));
if (data.albums.length) {
  at("under").src = data.input.src;
  at("source").href = data.input.original;
  state.column = nearest(data.albums[0].values, 0.7);
  at("eta").addEventListener("input", () => pick(Number(at("eta").value), state.row));
  at("album").addEventListener("change", () => choose(Number(at("album").value)));
  at("wipe").addEventListener("input", wipe);
  for (const radio of document.querySelectorAll('[name="view"]')) radio.addEventListener("change", () => view(radio.value));
  document.addEventListener("keydown", pressed);
  choose(0);
  wipe();
}
