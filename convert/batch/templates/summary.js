(() => {
  "use strict";
  // Filters: a word anywhere in the row, a verdict, a type. The address keeps them, so that a view can be sent on.
  const form = document.getElementById("filters"), shown = document.getElementById("shown");
  const fields = ["find", "verdict", "type"].map((id) => document.getElementById(id));
  const [find, verdict, type] = fields;
  const rows = [...document.getElementById("table").tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = words.every((word) => texts.get(row).includes(word))
        && (!verdict.value || row.dataset.verdict === verdict.value) && (!type.value || row.dataset.type === type.value);
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length} rows`;
    const asked = new URLSearchParams(fields.filter((field) => field.value).map((field) => [field.id, field.value]));
    history.replaceState(null, "", asked.size ? `#${asked}` : location.pathname);
  };
  const asked = new URLSearchParams(location.hash.slice(1));
  fields.forEach((field) => { if (asked.has(field.id)) field.value = asked.get(field.id); });
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
})();
