/* Asks the server of `fl-sim watch --web` what the run is doing, and loads the page again once there is more to see.
   What the reader was looking at stays: place on the page, open parts, filters; and hidden people stay hidden. */
"use strict";
(() => {
  const said = document.querySelector("[data-token]");
  const tools = document.querySelector(".tools");
  const parts = [...document.querySelectorAll("details")];
  const title = (part) => part.querySelector("summary").textContent.trim();
  const kept = `fl-sim${location.pathname}`;

  const keep = () => {
    const open = parts.filter((part) => part.open).map(title);
    const chosen = tools ? Object.fromEntries(new FormData(tools)) : {};
    const hidden = document.documentElement.classList.contains("concealed");
    sessionStorage.setItem(kept, JSON.stringify({ top: scrollY, open, chosen, hidden }));
  };
  const restore = ({ top, open, chosen, hidden }) => {
    if (hidden) document.querySelector(".conceal").click();
    for (const part of parts) part.open = open.includes(title(part));
    for (const [name, value] of Object.entries(chosen)) if (tools && tools.elements[name]) tools.elements[name].value = value;
    if (tools) tools.dispatchEvent(new Event("input"));
    scrollTo(0, top);
  };
  history.scrollRestoration = "manual";
  const before = sessionStorage.getItem(kept);
  if (before) restore(JSON.parse(before));

  const ask = async () => {
    try {
      const news = await (await fetch("state")).json();
      said.textContent = news.said;
      if (news.token !== said.dataset.token && !document.querySelector("dialog[open]")) {
        keep();
        return location.reload();
      }
    } catch {
      said.textContent = "Nobody serves this page any more; fl-sim watch --web does it again while the run is at work.";
      return;
    }
    setTimeout(ask, 1000);
  };
  setTimeout(ask, 1000);
})();
