"use strict";
// Sorting, the theme, and the row under the pointer lit up in every chart. The page says everything without these.

for (const table of document.querySelectorAll("table.board")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const words = head.querySelector(".head") ?? head;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...words.childNodes);
    words.append(button);
    button.addEventListener("click", () => {
      const last = head.getAttribute("aria-sort");
      const order = last ? (last === "ascending" ? "descending" : "ascending") : (head.dataset.first ?? "ascending");
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      sortBy(table.tBodies[0], column, order === "ascending" ? 1 : -1);
    });
  });
}

function sortBy(body, column, sign) {
  const value = (row) => row.cells[column].dataset.sort;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // a missing value is last
    const gap = Number(x) - Number(y);
    return sign * (Number.isNaN(gap) ? x.localeCompare(y) : gap);
  };
  body.append(...[...body.rows].sort(compare));
}

// A table that fits needs no scroll bar, and without one its head can stay in sight.
const watch = new ResizeObserver((entries) => {
  for (const { target } of entries) {
    const table = target.querySelector("table");
    target.classList.toggle("fits", table !== null && table.offsetWidth <= target.clientWidth);
  }
});
for (const box of document.querySelectorAll(".scroll")) watch.observe(box);

const theme = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
const label = () => { theme.textContent = dark() ? "light" : "dark"; };
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  label();
});
system.addEventListener("change", label);
theme.hidden = false;
label();

let lit = null;
document.addEventListener("pointerover", (event) => {
  const section = event.target.closest(".question");
  const name = event.target.closest("[data-entry]")?.dataset.entry ?? null;
  if (name === lit?.name && section === lit?.section) return;
  for (const old of document.querySelectorAll(".lit")) old.classList.remove("lit");
  document.querySelector(".dim")?.classList.remove("dim");
  lit = { name, section };
  if (name === null || section === null) return;
  section.classList.add("dim");
  for (const part of section.querySelectorAll("[data-entry]")) part.classList.toggle("lit", part.dataset.entry === name);
});
