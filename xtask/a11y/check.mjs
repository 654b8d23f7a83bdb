// Opens report pages in headless Chromium, in both sizes and themes, and once without JavaScript.
// node check.mjs CHROMIUM SCREENSHOTS PAGE…   (SCREENSHOTS: a folder, or "" for none)
// Prints every fault with its page and size; exits with 1 if there is one.
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const sizes = [
  { width: 390, height: 844 },
  { width: 1440, height: 900 },
];
const [executablePath, screenshots, ...pages] = process.argv.slice(2);

let faults = 0;
const fault = (where, what) => {
  faults += 1;
  console.log(`${where}: ${what}`);
};

/** Opens a page, and reports what it logs as an error or fetches from elsewhere. */
async function open(browser, options, file, where) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && fault(where, `console: ${message.text()}`));
  page.on("pageerror", (error) => fault(where, `script: ${error.message}`));
  const address = pathToFileURL(resolve(file)).href;
  page.on("request", (request) => {
    const own = request.url() === address || /^(data|blob):/.test(request.url());
    if (!own) fault(where, `fetches ${request.url().slice(0, 200)}`);
  });
  await page.goto(address);
  return [context, page];
}

/** The element that reaches furthest beyond the right edge without a box that scrolls around it. */
function overflow() {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return null;
  const boxed = (element) => {
    for (let box = element.parentElement; box; box = box.parentElement) {
      if (getComputedStyle(box).overflowX !== "visible") return true;
    }
    return false;
  };
  const beyond = [...document.body.querySelectorAll("*")]
    .map((element) => [element.getBoundingClientRect().right, element])
    .filter(([right, element]) => right > width + 0.5 && !boxed(element))
    .sort((a, b) => b[0] - a[0]);
  const [right, element] = beyond[0] ?? [document.documentElement.scrollWidth, document.body];
  return `${Math.ceil(right)} px wide: ${element.outerHTML.slice(0, 120)}`;
}

/** Arrow keys move through the marks of every chart, and the figures of each are said. */
async function charts(page, where) {
  for (const chart of await page.locator("figure svg").all()) {
    const marks = chart.locator('[role="img"]');
    const title = await chart.getAttribute("aria-label");
    if ((await marks.count()) === 0) {
      fault(where, `chart "${title}": no marks`);
      continue;
    }
    if ((await chart.locator('[tabindex="0"]').count()) !== 1) {
      fault(where, `chart "${title}": not one tab stop`);
      continue;
    }
    await chart.locator('[tabindex="0"]').focus();
    const name = () => page.evaluate(() => document.activeElement.querySelector("title")?.textContent);
    const said = new Set([await name()]);
    for (const key of ["ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft"]) {
      await page.keyboard.press(key);
      said.add(await name());
    }
    const readout = await chart.locator("xpath=../p[@class='readout']").textContent();
    if (!readout || readout !== (await name())) fault(where, `chart "${title}": no figures at the focused mark`);
    if ((await marks.count()) > 1 && said.size < 2) fault(where, `chart "${title}": arrow keys do not move`);
  }
}

/** The download is the report. */
async function download(page, where) {
  if ((await page.locator("#download").count()) === 0) return;
  await page.waitForFunction(() => document.getElementById("download").href.startsWith("blob:"));
  const schema = await page.evaluate(async () => (await (await fetch(document.getElementById("download").href)).json()).schema);
  if (schema !== "crossval.report/1") fault(where, `download: schema ${schema}`);
}

async function scripted(browser, file, size, colorScheme) {
  const where = `${file} at ${size.width} px, ${colorScheme}`;
  const [context, page] = await open(browser, { viewport: size, colorScheme }, file, where);
  await download(page, where);
  if (screenshots) {
    mkdirSync(screenshots, { recursive: true });
    const name = `${basename(dirname(resolve(file)))}-${basename(file, ".html")}-${size.width}-${colorScheme}.png`;
    await page.screenshot({ path: join(screenshots, name), fullPage: true });
  }
  // axe passes over what is folded.
  await page.evaluate(() => document.querySelectorAll("details").forEach((details) => (details.open = true)));
  const wide = await page.evaluate(overflow);
  if (wide) fault(where, `overflows the page: ${wide}`);
  await charts(page, where);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  for (const violation of violations.filter(({ impact }) => impact === "serious" || impact === "critical")) {
    for (const node of violation.nodes) {
      fault(where, `${violation.id} (${violation.impact}): ${node.target.join(" ")}: ${node.html.slice(0, 120)}`);
    }
  }
  await context.close();
}

async function unscripted(browser, file) {
  const where = `${file} without JavaScript`;
  const [context, page] = await open(browser, { viewport: sizes[0], javaScriptEnabled: false }, file, where);
  const headline = page.locator("h1").first();
  if (!(await headline.isVisible()) || !(await headline.innerText()).trim()) fault(where, "no headline");
  const tables = await page.locator("table").all();
  if (tables.length === 0) fault(where, "no tables");
  for (const table of tables) {
    const folded = (await table.locator("xpath=ancestor::details[not(@open)]").count()) > 0;
    if (!folded && !(await table.isVisible())) fault(where, "a table is not visible");
  }
  const packed = page.locator("#download");
  if ((await packed.count()) > 0) {
    const address = await packed.getAttribute("href");
    if (!address.startsWith("data:application/gzip;base64,")) fault(where, "no download");
  }
  await context.close();
}

const browser = await chromium.launch({
  executablePath,
  args: [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ],
});
for (const file of pages) {
  const before = faults;
  for (const size of sizes) {
    for (const theme of ["light", "dark"]) await scripted(browser, file, size, theme);
  }
  await unscripted(browser, file);
  if (faults === before) console.log(`${file}: no fault`);
}
await browser.close();
process.exitCode = faults ? 1 : 0;
