// What htmx leaves to do: follow an edit set by its events, and show answers as they come.
"use strict";

document.querySelectorAll("[data-events]").forEach((section) => {
  const events = new EventSource(section.dataset.events);
  events.addEventListener("progress", () => htmx.trigger("#progress", "changed"));
  events.addEventListener("final", () => { events.close(); location.reload(); });
});

const asking = document.getElementById("ask");
if (asking) asking.addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  const panes = document.getElementById("panes");
  const button = asking.querySelector("button");
  const show = (html) => { panes.innerHTML = html; htmx.process(panes); };
  button.disabled = true;
  panes.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(asking.dataset.stream, {
      method: "POST", body: new FormData(asking), headers: { "HX-Request": "true" },
    });
    const signIn = answer.headers.get("HX-Redirect");
    if (signIn) location.assign(signIn);
    else if (!answer.ok) show(await answer.text());
    else for await (const [name, data] of eventsOf(answer.body)) receive(panes, show, name, data);
  } catch (error) {
    show('<div class="problem" role="alert"><p>The service does not answer. Try again.</p></div>');
  } finally {
    button.disabled = false;
    panes.setAttribute("aria-busy", "false");
  }
});

function receive(panes, show, name, data) {
  if (name === "begin") {
    panes.replaceChildren(Object.assign(document.createElement("div"), { className: "panes" }));
    data.versions.forEach((version) => {
      const pane = document.createElement("section");
      pane.className = "card pane";
      pane.append(Object.assign(document.createElement("h2"), { textContent: version ? `Version ${version}` : "Version 0, the base" }));
      pane.append(Object.assign(document.createElement("p"), { className: "answer whole" }));
      panes.firstChild.append(pane);
    });
  } else if (name === "done" && !panes.querySelector(".problem")) show(data.html);
  else if (name === "text") paneOf(panes, data).append(data.text);
  else if (name === "error") {
    const said = Object.assign(document.createElement("span"), { className: "problem", textContent: data.detail });
    paneOf(panes, data).append(said);
  }
}

function paneOf(panes, data) {
  return panes.querySelectorAll(".answer")[data.pane];
}

async function* eventsOf(body) {
  let rest = "";
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const whole = (rest + part.value).split("\n\n");
    rest = whole.pop();
    for (const each of whole) {
      const fields = Object.fromEntries(each.split("\n").map((line) => line.split(/: (.*)/s)));
      if (fields.event) yield [fields.event, JSON.parse(fields.data)];
    }
  }
}
