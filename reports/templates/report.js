// The page is whole without this: it adds the figures of the charts for keyboards and touch.
for (const svg of document.querySelectorAll("figure svg")) {
  const marks = [...svg.querySelectorAll("rect, circle")].filter((mark) => mark.querySelector("title"));
  if (!marks.length) continue;
  const readout = document.createElement("p");
  readout.className = "readout";
  // The focused mark has the same name.
  readout.setAttribute("aria-hidden", "true");
  svg.closest("figure").append(readout);
  svg.setAttribute("role", "group");
  for (const mark of marks) {
    mark.setAttribute("role", "img");
    mark.setAttribute("tabindex", "-1");
  }
  let current = marks[0];
  current.setAttribute("tabindex", "0");
  const show = (event) => {
    if (marks.includes(event.target)) readout.textContent = event.target.querySelector("title").textContent;
  };
  svg.addEventListener("pointerover", show);
  svg.addEventListener("focusin", (event) => {
    show(event);
    current.setAttribute("tabindex", "-1");
    current = event.target;
    current.setAttribute("tabindex", "0");
  });
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  svg.addEventListener("keydown", (event) => {
    const direction = directions[event.key];
    if (!direction || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const [dx, dy] = direction;
    const from = current.getBBox();
    let best = null;
    let least = Infinity;
    for (const mark of marks) {
      // Along a line, the next point is one of the same line.
      if (dx && mark.tagName === "circle" && mark.getAttribute("fill") !== current.getAttribute("fill")) continue;
      const to = mark.getBBox();
      const [x, y] = [to.x - from.x, to.y - from.y];
      const along = x * dx + y * dy;
      const across = Math.abs(x * dy) + Math.abs(y * dx);
      const far = mark.tagName === "circle" && dx ? along : along + 4 * across;
      if (along > 0.5 && far < least) [best, least] = [mark, far];
    }
    if (best) best.focus();
  });
}

// Only what scrolls need be reached by keyboard.
const scrollers = [...document.querySelectorAll(".scroll")];
const reach = () => scrollers.forEach((box) => (box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1));
addEventListener("resize", reach);
document.addEventListener("toggle", reach, true);
reach();

const download = document.getElementById("download");
fetch(download.href)
  .then((packed) => new Response(packed.body.pipeThrough(new DecompressionStream("gzip"))).blob())
  .then((json) => {
    download.href = URL.createObjectURL(new Blob([json], { type: "application/json" }));
    download.download = "report.json";
  })
  .catch(() => {}); // The packed one stays.
