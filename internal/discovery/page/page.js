// Reads the page anew every five seconds while "live" is pressed, and puts what changed in the place of what is shown.
const live = document.getElementById("live");

live.addEventListener("click", () => {
  live.setAttribute("aria-pressed", String(live.getAttribute("aria-pressed") !== "true"));
});

setInterval(async () => {
  if (live.getAttribute("aria-pressed") !== "true" || document.hidden) {
    return;
  }
  try {
    const answer = await fetch(location.href);
    if (!answer.ok) {
      throw new Error(answer.statusText);
    }
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const id of ["tabs", "shown"]) {
      document.getElementById(id).replaceWith(next.getElementById(id));
    }
    live.textContent = "live";
  } catch (error) {
    live.textContent = "not reached";
  }
}, 5000);
