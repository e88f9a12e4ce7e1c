"use strict";
// A button in each heading of a table sorts its rows. Without the script, the table is as it is.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const isNumber = heading.classList.contains("number");
      const current = heading.getAttribute("aria-sort");
      // Large numbers are of interest first.
      const isUp = current ? current === "descending" : !isNumber;
      for (const other of headings) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", isUp ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        return isNumber ? Number(cell.dataset.value) : cell.textContent;
      };
      const compare = (a, b) => (isNumber ? a - b : a.localeCompare(b, undefined, { numeric: true }));
      const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)) * (isUp ? 1 : -1));
      body.append(...rows);
    });
  });
}
