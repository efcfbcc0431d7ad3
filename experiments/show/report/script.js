/* What a reader may do with the page: sort and filter users, step through rounds, enlarge faces, sort tables, hide
   people. The page is complete without this script, which fetches nothing. */
"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  /** The first number of a text, with any minus sign; NaN where there is none. "3 of 8" is a share. */
  const value = (text) => {
    const plain = text.replace(/\u2212/g, "-").replace(/,/g, "").trim();
    const share = /^(\d+) of (\d+)/.exec(plain);
    if (share) return share[1] / share[2];
    const found = /^[<>]?\s*-?\d+(\.\d+)?(e[+-]?\d+)?/i.exec(plain);
    return found ? Number(found[0].replace(/[<>\s]/g, "")) : NaN;
  };

  // Tables: a click on a heading sorts the rows of each block; what has no number comes last.
  const sortBy = (heading, column) => {
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of all("th", heading.parentElement)) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    for (const body of heading.closest("table").tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("block"));
      const key = new Map(rows.map((row) => [row, (row.cells[column] || row.cells[0]).textContent.trim()]));
      const number = (row) => value(key.get(row));
      const some = rows.some((row) => !Number.isNaN(number(row)));
      const missing = (row) => key.get(row) === "" || key.get(row) === "\u2013" || (some && Number.isNaN(number(row)));
      rows.sort((a, b) => {
        if (missing(a) || missing(b)) return missing(a) - missing(b);
        const order = some ? number(a) - number(b) : key.get(a).localeCompare(key.get(b));
        return rising ? order : -order;
      });
      body.append(...rows);
    }
  };
  for (const heading of all(".plain thead th, .numbers thead th")) {
    if (one("tbody", heading.closest("table")).rows.length < 2) continue;
    const button = make("button", { type: "button", className: "sort" }, ...heading.childNodes);
    button.addEventListener("click", () => sortBy(heading, heading.cellIndex));
    heading.append(button);
  }

  // A table that fits needs no stop for the keyboard.
  const fit = () => {
    for (const box of all(".scroll")) {
      const wide = box.scrollWidth > box.clientWidth;
      if (wide) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  addEventListener("resize", fit);
  for (const more of all("details")) more.addEventListener("toggle", fit);
  fit();

  // Inversions: the strip of frames behind a picture is taken off the page, and shown frame by frame where it is enlarged.
  const films = new Map();
  for (const film of all(".film")) {
    films.set(one(`.pictures [data-round="${film.dataset.round}"]`, film.closest(".attack")), film);
    film.remove();
  }

  // Users: filters, order, round and attack; figures are those of the pictures that are left.
  const tools = one(".tools");
  const users = all(".users > article");
  const of = (user) => Number(user.dataset.user);
  const figures = (user) => {
    const shown = all(".attack[data-attack] .pictures .picture", user).filter((picture) => !picture.closest("[hidden]"));
    const least = (numbers) => Math.min(...numbers.filter((number) => number === number), Infinity);
    return {
      rank: least(shown.map((picture) => value((one("b", picture)?.textContent || "").replace("rank ", "")))),
      alike: -least(shown.map((picture) => -value(one("b + span", picture)?.textContent || ""))),
    };
  };
  /** The faces of a user that no filter hides, as buttons; one of them is the user's stop for the keyboard. */
  const faces = (user) => all(".face", user).filter((face) => !face.closest(".users [hidden]"));
  const stop = (face) => {
    for (const other of all(".face", face.closest("article"))) other.tabIndex = other === face ? 0 : -1;
  };
  const traits = (user) => all(".traits tbody tr", user).map((row) => `${row.cells[0].textContent}: ${row.cells[1].textContent}`);
  const rounds = [...new Set(all(".users [data-round]").map((picture) => Number(picture.dataset.round)))].sort((a, b) => a - b);

  const apply = () => {
    const wanted = Object.fromEntries(new FormData(tools));
    const round = Number(wanted.round) ? String(rounds[wanted.round - 1]) : "";
    tools.elements.at.value = round || "all";
    tools.elements.round.setAttribute("aria-valuetext", round ? `round ${round}` : "all rounds");
    const attacks = new Set();
    for (const strip of all(".users .attack[data-attack]")) {
      const { attack, knows } = strip.dataset;
      strip.hidden = !((!wanted.attack || attack === wanted.attack) && (!wanted.knows || knows === wanted.knows));
      if (!strip.hidden) attacks.add(attack);
    }
    for (const guess of all(".traits p[data-attack]")) guess.hidden = !attacks.has(guess.dataset.attack);
    for (const picture of all(".users [data-round]"))
      if (!picture.parentElement.closest("[data-round]")) picture.hidden = Boolean(round) && picture.dataset.round !== round;
    const measured = new Map(users.map((user) => [user, figures(user)]));
    let count = 0;
    for (const user of users) {
      const named = measured.get(user).rank === 1;
      const fits = (wanted.show === "all" || (wanted.show === "named") === named) && (!wanted.trait || traits(user).includes(wanted.trait));
      user.hidden = !fits;
      count += fits;
    }
    const order = {
      user: (a, b) => of(a) - of(b),
      alike: (a, b) => measured.get(b).alike - measured.get(a).alike,
      unlike: (a, b) => measured.get(a).alike - measured.get(b).alike,
      rank: (a, b) => measured.get(a).rank - measured.get(b).rank,
    }[wanted.sort];
    for (const user of users) {
      const left = faces(user);
      if (left.length && !left.some((face) => face.tabIndex === 0)) stop(left[0]); // the keyboard gets in
    }
    const sorted = [...users].sort((a, b) => order(a, b) || of(a) - of(b));
    if (sorted.some((user, index) => one(".users").children[index] !== user)) one(".users").append(...sorted);
    tools.elements.count.value = `${count} of ${users.length} user${users.length === 1 ? "" : "s"}`;
  };

  if (tools && users.length) {
    const fill = (name, values) => {
      for (const each of values) tools.elements[name].append(make("option", { value: each, textContent: each }));
    };
    fill("trait", [...new Set(users.flatMap(traits))].sort());
    const strips = all(".users .attack[data-attack]");
    fill("attack", [...new Set(strips.map((strip) => strip.dataset.attack))]);
    const known = new Set(strips.map((strip) => strip.dataset.knows));
    for (const option of [...tools.elements.knows.options]) if (option.value && !known.has(option.value)) option.remove();
    tools.elements.round.max = rounds.length;
    const offered = {
      trait: tools.elements.trait.options.length > 1,
      attack: tools.elements.attack.options.length > 2,
      knows: known.size > 1,
      round: rounds.length > 1,
    };
    for (const [name, useful] of Object.entries(offered)) tools.elements[name].closest("label").hidden = !useful;
    tools.addEventListener("input", apply);
    tools.addEventListener("submit", (event) => event.preventDefault());
    tools.addEventListener("reset", () => setTimeout(apply));
    tools.hidden = false;
    apply();
  }

  // A link to a user, or to what lies in a closed part, always arrives.
  const arrive = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const part = target.closest("details");
    if (part) part.open = true;
    if (target.closest("article[hidden]")) {
      tools.reset();
      setTimeout(() => target.scrollIntoView());
    } else target.scrollIntoView();
  };
  addEventListener("hashchange", arrive);
  arrive();

  // Faces: one stop for the keyboard a user, arrows between the faces, Enter enlarges.
  const zoom = one("dialog.zoom");
  let current = null;
  const beside = (button, by) => {
    const list = faces(button.closest("article"));
    return list[(list.indexOf(button) + by + list.length) % list.length];
  };
  const enter = (button) => {
    stop(button);
    button.focus();
  };
  const steps = one("dialog.zoom input");
  const step = () => {
    const film = films.get(current.closest(".picture"));
    const own = one("img", current);
    const after = film.dataset.after.split(" ");
    const percent = after[steps.value];
    const said = percent ? `${film.dataset.what} after ${percent} % of the steps` : own.alt;
    const figure = zoom.firstElementChild.lastElementChild;
    const image = Object.assign(one("img", figure), { src: (percent ? film : own).src, alt: said, className: percent ? "film" : "" });
    image.style.setProperty("--at", `${(100 * steps.value) / Math.max(after.length - 1, 1)}%`);
    one("figcaption", figure).textContent = said;
    one("output", zoom).value = percent ? `${percent} %` : "answer";
    steps.setAttribute("aria-valuetext", percent ? `after ${percent} % of the steps` : "the answer");
  };
  const show = (button) => {
    current = button;
    const article = button.closest("article");
    const own = one("img", button);
    const photo = button.closest(".person") ? null : one(".photos img", article);
    zoom.firstElementChild.replaceChildren(...[photo, own].filter(Boolean).map((image) =>
      make("figure", {}, make("img", { src: image.src, alt: image.alt }), make("figcaption", {}, image.alt))));
    const list = faces(article);
    one(".count", zoom).textContent = `${list.indexOf(button) + 1} of ${list.length} faces of user ${article.dataset.user}`;
    const film = films.get(button.closest(".picture"));
    steps.closest("label").hidden = !film;
    if (film) {
      steps.value = steps.max = film.dataset.after.split(" ").length;
      step();
    }
    if (!zoom.open) zoom.showModal();
  };
  for (const article of users)
    for (const [index, image] of all("img", article).entries()) {
      const button = make("button", { type: "button", className: "face", ariaLabel: `Enlarge: ${image.alt}`, tabIndex: index ? -1 : 0 });
      image.replaceWith(button);
      button.append(image);
      button.addEventListener("click", () => show(button));
      button.addEventListener("keydown", (event) => {
        const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!by) return;
        event.preventDefault();
        enter(beside(button, by));
      });
    }
  if (zoom) {
    for (const step of all("button[value]", zoom)) step.addEventListener("click", () => show(beside(current, Number(step.value))));
    zoom.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (by && event.target !== steps) show(beside(current, by));
    });
    steps.addEventListener("input", step);
    zoom.addEventListener("click", (event) => { if (event.target === zoom) zoom.close(); });
    zoom.addEventListener("close", () => enter(current));
  }

  // For a screen that others see. The photos stay in the file.
  const conceal = one(".conceal");
  if (conceal) {
    conceal.hidden = false;
    conceal.addEventListener("click", () => {
      const hidden = document.documentElement.classList.toggle("concealed");
      conceal.setAttribute("aria-pressed", String(hidden));
    });
  }

  // The contents bar says where the reader is.
  const places = all(".contents a").map((link) => [link, document.getElementById(link.hash.slice(1))]);
  const mark = () => {
    let here = null;
    for (const [link, place] of places) if (place && place.getBoundingClientRect().top < innerHeight / 3) here = link;
    for (const [link] of places) link === here ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
})();
