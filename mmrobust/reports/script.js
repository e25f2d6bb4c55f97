"use strict";
{
  // Tables: a click on a head sorts by its column; best first, then worst first, then as it was.
  const compare = (a, b, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    if (typeof a === "number") return sign * (a - b);
    return sign * a.localeCompare(b, "en", { numeric: true });
  };
  for (const table of document.querySelectorAll("table.sheet")) {
    const body = table.tBodies[0], original = [...body.rows], heads = [...table.tHead.rows[0].cells];
    if (original.length < 2) continue;
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const first = head.dataset.better === "higher" ? "descending" : "ascending";
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = now === "none" ? first : now === first ? (first === "ascending" ? "descending" : "ascending") : "none";
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", next);
        if (next === "none") return body.append(...original);
        const texts = original.map((row) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim());
        const numeric = texts.every((text) => text === "" || Number.isFinite(Number(text)));
        const keys = new Map(original.map((row, i) => [row, numeric && texts[i] !== "" ? Number(texts[i]) : texts[i]]));
        const sign = next === "ascending" ? 1 : -1;
        body.append(...[...original].sort((a, b) => compare(keys.get(a), keys.get(b), sign)));
      });
    });
  }

  // Figures: what is downloaded has its colours written out, so that it stands alone; without this script the link
  // leads to the same figure in figures/.
  const colours = COLOURS;
  for (const link of document.querySelectorAll("a[data-figure]")) {
    link.addEventListener("click", () => {
      const drawn = link.closest("figure").querySelector("svg"), copy = drawn.cloneNode(true);
      const box = drawn.viewBox.baseVal;
      copy.setAttribute("width", `${box.width}pt`);
      copy.setAttribute("height", `${box.height}pt`);
      const text = new XMLSerializer().serializeToString(copy)
        .replace(/var\((--[a-z0-9-]+)\)/g, (whole, name) => colours[name] ?? whole);
      const address = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
      link.href = address;
      setTimeout(() => URL.revokeObjectURL(address), 60000);
    });
  }

  // Curves: pointing at one, or at its name, lets the others step back.
  for (const svg of document.querySelectorAll("figure svg")) {
    if (!svg.querySelector("[class^=curve-]")) continue;
    const light = (name) => {
      svg.classList.toggle("lit", name !== undefined);
      for (const part of svg.querySelectorAll("[class^=curve-]")) part.classList.toggle("on", part.classList[0] === name);
    };
    svg.addEventListener("pointerover", (event) => light(event.target.closest("[class^=curve-]")?.classList[0]));
    svg.addEventListener("pointerleave", () => light(undefined));
  }
}
