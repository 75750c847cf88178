"use strict";
const study = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const KEY = `imagic-study-${study.id}`;
// rater, and one answer for each question that was answered, in the rater's own order.
let kept = { rater: "", answers: [] };
let order = [];
let shownAt = 0;
let ready = false;

// Numbers in [0, 1) that depend on the text alone: xmur3 seeds mulberry32 (public domain, bryc).
function random(text) {
  let hash = 1779033703 ^ text.length;
  for (const letter of new TextEncoder().encode(text)) {
    hash = Math.imul(hash ^ letter, 3432918353);
    hash = (hash << 13) | (hash >>> 19);
  }
  return () => {
    hash = (hash + 0x6d2b79f5) | 0;
    let mixed = Math.imul(hash ^ (hash >>> 15), 1 | hash);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

// Which questions a rater is asked, in which order, and which edit stands left.
function drawn(rater) {
  const next = random(`${study.seed}/${rater}`);
  const numbers = study.trials.map((_trial, number) => number);
  for (let last = numbers.length - 1; last > 0; last--) {
    const other = Math.floor(next() * (last + 1));
    [numbers[last], numbers[other]] = [numbers[other], numbers[last]];
  }
  return numbers.slice(0, study.questions).map((number) => {
    const trial = study.trials[number];
    const [left, right] = next() < 0.5 ? trial.edits : [...trial.edits].reverse();
    return { trial, left, right };
  });
}

function remember() {
  try {
    localStorage.setItem(KEY, JSON.stringify(kept));
  } catch {
    at("kept").hidden = false;
  }
}

function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) || "null");
    if (found && typeof found.rater === "string" && Array.isArray(found.answers)) kept = found;
  } catch {
    at("kept").hidden = false;
  }
}

function only(section) {
  for (const id of ["welcome", "asking", "done"]) at(id).hidden = id !== section;
}

function welcome() {
  // Names that do not meet: two raters of one name would be asked in the same order, and could not be told apart.
  at("rater").value = Math.random().toString(36).slice(2, 8);
  only("welcome");
  at("rater").focus();
}

async function ask() {
  if (kept.answers.length >= order.length) {
    finish();
    return;
  }
  only("asking");
  const number = kept.answers.length;
  const { trial, left, right } = order[number];
  at("progress").max = order.length;
  at("progress").value = number;
  at("count").textContent = `${number + 1} of ${order.length}`;
  at("text").textContent = trial.text;
  at("back").disabled = at("partial").disabled = number === 0;
  await picture(number, [[at("input"), trial.input], [at("left").querySelector("img"), left.picture],
    [at("right").querySelector("img"), right.picture]]);
}

// Nobody answers before there is something to see.
async function picture(number, images) {
  ready = false;
  at("left").disabled = at("right").disabled = true;
  at("broken").hidden = true;
  const frame = document.querySelector(".trial");
  frame.classList.add("waiting");
  for (const [image, source] of images) image.src = source;
  try {
    await Promise.all(images.map(([image]) => image.decode()));
  } catch {
    if (number === kept.answers.length) at("broken").hidden = false;
    return;
  }
  if (number !== kept.answers.length) return;
  frame.classList.remove("waiting");
  at("left").disabled = at("right").disabled = false;
  at("left").querySelector("img").alt = "The left edit";
  at("right").querySelector("img").alt = "The right edit";
  shownAt = performance.now();
  ready = true;
  preload(number + 1);
}

function preload(number) {
  if (number >= order.length) return;
  const { trial, left, right } = order[number];
  for (const source of [trial.input, left.picture, right.picture]) new Image().src = source;
}

function answer(side) {
  if (at("asking").hidden || !ready) return;
  const { trial, left, right } = order[kept.answers.length];
  const seconds = Math.round((performance.now() - shownAt) / 10) / 100;
  kept.answers.push({ trial: trial.trial, left: left.method, right: right.method, chosen: side, seconds });
  remember();
  ask();
}

function back() {
  if (!kept.answers.length) return;
  kept.answers.pop();
  remember();
  ask();
}

function finish() {
  at("summary").textContent = `All ${order.length} questions are answered.`;
  only("done");
  at("download").focus();
}

function download() {
  const { id, seed, methods, questions, version } = study;
  const about = { version, kind: "imagic study answers", study: id, seed, methods, trials: study.trials.length, questions };
  const content = { ...about, rater: kept.rater, saved: new Date().toISOString(), answers: kept.answers };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  link.download = `answers-${id.slice(0, 6)}-${kept.rater.replace(/[^\p{L}\p{N}]+/gu, "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  at("told").textContent = `Downloaded as ${link.download}.`;
}

function anew() {
  if (!confirm("Remove these answers from this browser? Download them first.")) return;
  kept = { rater: "", answers: [] };
  remember();
  at("told").textContent = "";
  welcome();
}

at("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  kept = { rater: at("rater").value.trim() || "nobody", answers: [] };
  order = drawn(kept.rater);
  remember();
  ask();
});
at("left").addEventListener("click", () => answer("left"));
at("right").addEventListener("click", () => answer("right"));
at("back").addEventListener("click", back);
at("review").addEventListener("click", back);
for (const id of ["download", "partial"]) at(id).addEventListener("click", download);
at("anew").addEventListener("click", anew);
document.addEventListener("keydown", (event) => {
  // A key held down is one answer, not many.
  if (at("asking").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const acts = { ArrowLeft: () => answer("left"), ArrowRight: () => answer("right"), Backspace: back };
  if (!(event.key in acts)) return;
  event.preventDefault();
  acts[event.key]();
});
recall();
if (kept.rater) {
  order = drawn(kept.rater);
  ask();
} else {
  welcome();
}
