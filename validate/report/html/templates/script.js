(() => {
  "use strict";
  const root = document.documentElement, said = document.getElementById("said");

  // Light or dark, by a button where the system's own choice is not wanted.
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = dark() ? "Light" : "Dark"; button.setAttribute("aria-label", `Show in ${dark() ? "light" : "dark"} colours`); };
  button.hidden = false;
  button.onclick = () => { root.dataset.theme = dark() ? "light" : "dark"; name(); };
  system.addEventListener("change", name);
  name();

  // Sorting: up, down, then as the recipe has it. What was not measured stays last.
  const table = document.getElementById("table"), body = table.tBodies[0], rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, i, text) => {
    const given = row.cells[i].dataset.value;
    return given === undefined ? null : text ? given : Number(given);
  };
  const sort = (head, i) => {
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort") || "none"];
    const text = head.dataset.sort === "text", sign = next === "descending" ? -1 : 1;
    heads.forEach((other) => other.hasAttribute("aria-sort") && other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", next);
    const order = next === "none" ? rows : [...rows].sort((a, b) => {
      const x = value(a, i, text), y = value(b, i, text);
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (text ? x.localeCompare(y, "en", { numeric: true }) : x - y);
    });
    body.append(...order);
    said.textContent = next === "none" ? "In the recipe's order" : `Sorted by ${head.innerText}, ${next}`;
  };
  heads.forEach((head, i) => {
    if (!head.dataset.sort) return;
    const control = document.createElement("button");
    control.type = "button";
    control.append(...head.childNodes);
    control.onclick = () => sort(head, i);
    head.append(control);
    head.setAttribute("aria-sort", "none");
  });

  // What a pointer rests on, told at once and on touch too.
  const tip = document.getElementById("tip");
  document.querySelectorAll(".tip").forEach((group) => {
    const title = group.querySelector("title");
    group.dataset.tip = title.textContent;
    title.remove();
  });
  const hide = () => { tip.hidden = true; };
  document.addEventListener("pointerover", (event) => {
    const on = event.target.closest("[data-tip]");
    if (!on) return hide();
    tip.textContent = on.dataset.tip;
    tip.hidden = false;
    const at = on.getBoundingClientRect(), size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - size.width / 2), innerWidth - size.width - 8);
    const above = at.top - size.height - 8;
    tip.style.transform = `translate(${left}px,${above > 0 ? above : at.bottom + 8}px)`;
  });
  addEventListener("scroll", hide, { passive: true });
  addEventListener("keydown", (event) => event.key === "Escape" && hide());

  // A printed page has nothing to open.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((part) => { part.open = true; });
  });
  addEventListener("afterprint", () => closed.forEach((part) => { part.open = false; }));
})();
