"use strict";
// Filters the matrix and shows evidence. Everything from the report is put in as text, never as HTML.
(() => {
  const byId = (name) => document.getElementById(name);
  // Neither a fault nor unknown: what "not green" leaves out.
  const NEUTRAL = new Set(["PASS", "WAIVED", "NOT-APPLICABLE"]);
  const rows = [...document.querySelectorAll(".row")].map((row) => ({
    row, text: row.dataset.text, cells: [...row.querySelectorAll(".cell")],
  }));
  const chips = [...document.querySelectorAll(".chip[data-verdict]")];
  const notGreen = byId("not-green");
  const bar = document.querySelector(".filters");
  const isPressed = (button) => button.getAttribute("aria-pressed") === "true";
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));

  function applyFilter() {
    const words = byId("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = new Set(chips.filter(isPressed).map((chip) => chip.dataset.verdict));
    const fits = (cell) => wanted.size === 0 || wanted.has(cell.dataset.verdict);
    let shown = 0;
    for (const { row, text, cells } of rows) {
      const hit = words.every((word) => text.includes(word)) && cells.some(fits);
      row.hidden = !hit;
      shown += hit;
      for (const cell of cells) cell.classList.toggle("faded", !fits(cell));
    }
    for (const body of document.querySelectorAll("tbody[data-family]")) {
      body.hidden = !body.querySelector(".row:not([hidden])");
    }
    byId("shown").textContent = `${shown} of ${rows.length} clauses`;
    byId("nothing").hidden = shown > 0;
    const red = chips.filter((chip) => !NEUTRAL.has(chip.dataset.verdict));
    press(notGreen, wanted.size > 0 && red.length === wanted.size && red.every(isPressed));
  }

  function reset() {
    byId("text").value = "";
    chips.forEach((chip) => press(chip, false));
    applyFilter();
  }

  // An element with a class and children; a string becomes a text node, so nothing in it is ever markup.
  function make(name, className, ...children) {
    const element = document.createElement(name);
    if (className) element.className = className;
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  const unpacked = new Map();
  // Asynchronous, so that what is thrown at once (no DecompressionStream, damaged base64) is refused like the rest.
  async function readEvidence(index) {
    if (!unpacked.has(index)) {
      const packed = Uint8Array.from(atob(byId(`packed-${index}`).textContent), (char) => char.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(index, new Response(stream).json());
    }
    return unpacked.get(index);
  }

  const asText = (value) => (Array.isArray(value) ? value.map(asText).join("\n")
    : typeof value === "string" ? value : JSON.stringify(value));
  const quote = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  // The order in which a person looks; whatever else a test recorded comes behind.
  const STREAMS = ["stdout", "stderr", "problem", "status", "leftover", "new_files", "new_mounts", "executed", "kernel", "journal", "audit", "before", "after"];
  const ABOVE = new Set(["argv", "user", "exit_code", "seconds", "started", "ended", "denials", "timed_out"]);

  function showPiece(piece) {
    const box = make("div", "piece");
    if (piece.argv) box.append(make("pre", "command", `$ ${piece.argv.map(quote).join(" ")}`));
    const meta = [];
    if (piece.user) meta.push(`as ${piece.user}`);
    if ("exit_code" in piece) meta.push(piece.exit_code === null ? "did not end" : piece.exit_code < 0 ? `signal ${-piece.exit_code}` : `exit code ${piece.exit_code}`);
    if ("seconds" in piece) meta.push(`${piece.seconds} s`);
    if (piece.timed_out) meta.push("ended at its deadline");
    if (piece.denials) meta.push(piece.denials === 1 ? "1 denial" : `${piece.denials} denials`);
    box.append(make("p", "meta", meta.join(", ")));
    const names = [...STREAMS.filter((name) => name in piece), ...Object.keys(piece).filter((name) => !STREAMS.includes(name) && !ABOVE.has(name))];
    for (const name of names) {
      const text = asText(piece[name]);
      const lines = text.replace(/\n$/, "").split("\n").length;
      const part = make("details", "", make("summary", "", `${name} (${lines} ${lines === 1 ? "line" : "lines"})`), make("pre", "", text));
      part.open = name === "stderr" || name === "problem" || (name === "stdout" && lines <= 12);
      box.append(part);
    }
    return box;
  }

  function showTest(test) {
    const box = make("section", "test", make("h3", "", `${test.verdict} ${test.node.split("::").pop()}`));
    box.append(make("p", "meta", `${test.node}; passed ${test.passed} of ${test.attempts.length}`));
    test.attempts.forEach((attempt, number) => {
      if (test.attempts.length > 1) box.append(make("h3", "", `Attempt ${number + 1}: ${attempt.outcome}`));
      box.append(make("p", "meta", `${attempt.duration_s} s`));
      if (attempt.message) box.append(make("pre", "", attempt.message));
      if (attempt.evidence.length === 0) box.append(make("p", "meta", "This attempt recorded no command."));
      attempt.evidence.forEach((piece) => box.append(showPiece(piece)));
    });
    return box;
  }

  const dialog = byId("evidence");
  // The cell whose evidence is open, and how often one was opened or closed.
  let shown = null;
  let turn = 0;

  async function show(cell) {
    const mine = ++turn;
    shown = cell;
    const profile = byId(`packed-${cell.dataset.profile}`).dataset.name;
    byId("evidence-title").textContent = `${cell.dataset.clause} on ${profile}: ${cell.dataset.verdict}`;
    const body = byId("evidence-body");
    body.replaceChildren(make("p", "", "Unpacking…"));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    byId("evidence-title").focus();
    let clause;
    try {
      clause = (await readEvidence(cell.dataset.profile))[cell.dataset.clause];
    } catch {
      clause = undefined;
    }
    // Meanwhile it was closed, and perhaps another one opened: this belongs under no heading that is there.
    if (mine !== turn) return;
    if (!clause) {
      body.replaceChildren(make("p", "", "This evidence cannot be unpacked here; the same is in report.json."));
      return;
    }
    body.replaceChildren(
      make("p", "", make("strong", "", `${clause.level}: `), clause.statement),
      make("p", "meta", `Seen by: ${clause.observable}`),
      make("p", "meta", `Source: ${clause.source}`),
      clause.reason ? make("pre", "", clause.reason) : "",
      make("p", "meta", "Judge it again:"),
      make("pre", "", clause.again),
      ...clause.tests.map(showTest),
    );
  }

  function findByAddress() {
    let words = [];
    try {
      words = decodeURIComponent(location.hash.slice(1)).split("/");
    } catch { /* a damaged address names nothing */ }
    const [clause, profile] = words;
    return (profile && [...document.querySelectorAll(".cell")].find(
      (one) => one.dataset.clause === clause && one.parentElement.dataset.profile === profile)) || null;
  }

  function shut() {
    turn += 1;
    shown = null;
    dialog.close();
  }

  // The address decides what is open, so that Back closes evidence and does not leave the page.
  function follow() {
    const cell = findByAddress();
    if (cell && cell !== shown) show(cell);
    if (!cell && shown) shut();
  }

  function open(cell) {
    history.pushState({ ours: true }, "", `#${cell.dataset.clause}/${encodeURIComponent(cell.parentElement.dataset.profile)}`);
    show(cell);
  }

  function leave() {
    if (history.state && history.state.ours) {
      history.back();
    } else {
      // Opened by a link: one step back is another page.
      history.replaceState(null, "", "#matrix");
      follow();
    }
  }

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const cell = target && target.closest(".cell");
    if (cell) open(cell);
    const chip = target && target.closest(".chip[data-verdict]");
    if (chip) { press(chip, !isPressed(chip)); applyFilter(); }
    // The dialog itself is hit only beside its content: on the backdrop.
    if (target === dialog) leave();
  });
  notGreen.addEventListener("click", () => {
    const on = !isPressed(notGreen);
    chips.forEach((chip) => press(chip, on && !NEUTRAL.has(chip.dataset.verdict)));
    applyFilter();
  });
  byId("text").addEventListener("input", applyFilter);
  byId("reset").addEventListener("click", reset);
  byId("close").addEventListener("click", leave);
  dialog.addEventListener("cancel", (event) => { event.preventDefault(); leave(); });
  // A browser may close it without asking: then the address still names it.
  dialog.addEventListener("close", () => { if (!dialog.open && findByAddress()) leave(); });
  bar.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !dialog.open && document.activeElement !== byId("text")) {
      event.preventDefault();
      byId("text").focus();
    }
  });
  window.addEventListener("popstate", follow);
  window.addEventListener("hashchange", follow);
  // The names of the hosts stay below the filters, however many lines those take.
  new ResizeObserver(() => document.documentElement.style.setProperty("--bar", `${bar.offsetHeight}px`)).observe(bar);
  if (!chips.some((chip) => !NEUTRAL.has(chip.dataset.verdict))) notGreen.hidden = true;
  applyFilter();
  follow();
})();
