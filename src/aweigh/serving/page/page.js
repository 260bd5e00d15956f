// The page of `aweigh serve`: an image goes to the service once, with a low score; what is shown of the answer is
// chosen here.

const LOWEST = 0.05;
const COLOURS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008f9c", "#d6289a", "#6f8f00", "#9a6324", "#b8860b"];
const get = (id) => document.getElementById(id);
const canvas = get("canvas");
const context = canvas.getContext("2d");

const state = {
  models: [], // as /v1/models lists them
  names: [], // of their classes
  image: null, // ImageBitmap
  blob: null, // what was sent
  name: "image",
  found: [], // of each model: {detections, masks}
  off: new Set(), // names of classes that are not shown
  chosen: null, // a detection
  hovered: null,
  token: "",
  camera: null,
  asked: 0, // number of the last request: answers of earlier ones are late
};

async function ask(path, options = {}) {
  for (;;) {
    const headers = { ...(options.headers ?? {}), ...(state.token ? { Authorization: `Bearer ${state.token}` } : {}) };
    const response = await fetch(path, { ...options, headers });
    if (response.status !== 401) return response;
    get("ask").showModal();
    await new Promise((done) => get("ask").addEventListener("close", done, { once: true }));
    state.token = get("token").value;
    if (!state.token) throw new Error("This service asks for a token.");
  }
}

async function start() {
  state.models = (await (await ask("v1/models")).json()).models;
  get("model").textContent = state.models.map((model) => `${model.name} (${model.computed_by})`).join("  |  ");
  if (state.models.length > 1) {
    get("compare").hidden = false;
    [get("left").textContent, get("right").textContent] = state.models.map((model) => model.name);
  }
  state.names = [...new Set(state.models.slice(0, 2).flatMap((model) => model.classes.map((one) => one.name)))];
  get("classes").replaceChildren(...state.names.map(classBox));
  counted();
}

function classBox(name) {
  const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
  box.addEventListener("change", () => {
    box.checked ? state.off.delete(name) : state.off.add(name);
    counted();
    show();
  });
  const label = document.createElement("label");
  label.append(box, ` ${name}`);
  label.dataset.name = name;
  return label;
}

function setAll(on) {
  for (const label of get("classes").children) {
    label.firstChild.checked = on;
    on ? state.off.delete(label.dataset.name) : state.off.add(label.dataset.name);
  }
  counted();
  show();
}

function counted() {
  const all = get("classes").children.length;
  get("classes-count").textContent = state.off.size ? `(${all - state.off.size} of ${all})` : `(all ${all})`;
}

// --- asking ----------------------------------------------------------------------------------------------------------

async function detect(blob, name) {
  const number = ++state.asked;
  say("Looking ...");
  let image;
  try {
    image = await createImageBitmap(blob);
  } catch {
    image = null; // TIFF and others that a browser does not show
  }
  try {
    await started; // an image may be dropped before the models are known
    const answers = await Promise.all(
      state.models.slice(0, 2).map(async (model) => {
        const response = await ask(`v1/detect?score=${LOWEST}&model=${encodeURIComponent(model.name)}`, {
          method: "POST",
          headers: { "Content-Type": "application/octet-stream" },
          body: blob,
        });
        const answer = await response.json();
        if (!response.ok) throw new Error(answer.error);
        return answer;
      }),
    );
    if (number !== state.asked) return;
    Object.assign(state, { image, blob, name, chosen: null, hovered: null });
    state.found = answers.map((answer) => ({ ...answer, masks: answer.detections.map(maskOf) }));
    canvas.width = answers[0].width;
    canvas.height = answers[0].height;
    canvas.hidden = false;
    get("hint").hidden = true;
    get("save").hidden = false;
    get("drop").classList.add("full");
    get("explained").hidden = true;
    show();
  } catch (error) {
    if (number === state.asked) say(error.message);
  }
}

function say(text) {
  get("status").textContent = text;
}

// COCO's compressed run lengths, column by column, as a canvas of the image's size.
function maskOf(detection) {
  if (!detection.segmentation) return null;
  const [height, width] = detection.segmentation.size;
  const text = detection.segmentation.counts;
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let value = 0;
    let shift = 0;
    let code;
    do {
      code = text.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  const pixels = new ImageData(width, height);
  const [red, green, blue] = rgb(colour(detection.class));
  let place = 0;
  runs.forEach((run, number) => {
    for (const end = place + run; place < end; place++) {
      if (number % 2 === 0) continue;
      const at = 4 * ((place % height) * width + Math.floor(place / height));
      pixels.data.set([red, green, blue, 110], at);
    }
  });
  const mask = new OffscreenCanvas(width, height);
  mask.getContext("2d").putImageData(pixels, 0, 0);
  return mask;
}

// --- showing ---------------------------------------------------------------------------------------------------------

const colour = (name) => COLOURS[Math.max(0, state.names.indexOf(name)) % COLOURS.length];

const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

const shown = (model) => {
  const least = Number(get("score").value);
  return (state.found[model]?.detections ?? []).filter((one) => one.score >= least && !state.off.has(one.class));
};

const splitX = () => (state.found.length > 1 ? (canvas.width * Number(get("split").value)) / 100 : canvas.width);

function show() {
  get("score-value").textContent = Number(get("score").value).toFixed(2);
  if (!state.found.length) return;
  paint();
  const objects = shown(0);
  say(`${objects.length} object${objects.length === 1 ? "" : "s"} from a score of ${get("score-value").textContent}`);
  canvas.setAttribute("aria-label", `Image with ${objects.map((one) => one.class).join(", ") || "nothing found"}`);
  get("found").replaceChildren(...objects.map(row));
}

function row(detection) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.setAttribute("aria-current", String(detection === state.chosen));
  const swatch = document.createElement("span");
  swatch.className = "swatch";
  swatch.style.setProperty("background", colour(detection.class));
  const name = Object.assign(document.createElement("span"), { textContent: detection.class });
  const score = Object.assign(document.createElement("span"), { textContent: detection.score.toFixed(2) });
  button.append(swatch, name, score);
  button.addEventListener("click", () => choose(detection));
  const item = document.createElement("li");
  item.append(button);
  return item;
}

function paint() {
  const { width, height } = canvas;
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  if (state.image) context.drawImage(state.image, 0, 0, width, height);
  const middle = splitX();
  state.found.forEach((found, model) => {
    context.save();
    context.beginPath();
    context.rect(model ? middle : 0, 0, model ? width - middle : middle, height);
    context.clip();
    const visible = new Set(shown(model));
    found.detections.forEach((one, number) => visible.has(one) && paintOne(one, found.masks[number]));
    context.restore();
  });
  if (state.found.length > 1) {
    context.fillStyle = "#fff";
    context.fillRect(middle - 1, 0, 2, height);
  }
}

function paintOne(one, mask) {
  const unit = (1.7 * canvas.width) / (canvas.clientWidth || canvas.width); // of what is seen, whatever the image
  const [x0, y0, x1, y1] = one.box;
  const strong = one === state.chosen || one === state.hovered;
  if (mask) context.drawImage(mask, 0, 0);
  context.strokeStyle = colour(one.class);
  context.lineWidth = (strong ? 2.6 : 1.3) * unit;
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  context.fillStyle = colour(one.class);
  for (const [x, y, score] of one.keypoints ?? []) {
    if (score <= 0) continue;
    context.beginPath();
    context.arc(x, y, 2 * unit, 0, 2 * Math.PI);
    context.fill();
  }
  context.font = `${7 * unit}px system-ui, sans-serif`;
  const text = `${one.class} ${one.score.toFixed(2)}`;
  const wide = context.measureText(text).width + 4 * unit;
  const [left, top] = [Math.max(0, Math.min(x0, canvas.width - wide)), Math.max(0, y0 - 9 * unit)];
  context.fillRect(left, top, wide, 9 * unit);
  context.fillStyle = "#fff";
  context.fillText(text, left + 2 * unit, top + 7 * unit);
}

// --- choosing --------------------------------------------------------------------------------------------------------

function at(event) {
  const area = canvas.getBoundingClientRect();
  const x = ((event.clientX - area.left) * canvas.width) / area.width;
  const y = ((event.clientY - area.top) * canvas.height) / area.height;
  const inside = shown(x < splitX() ? 0 : 1).filter(({ box }) => box[0] <= x && x <= box[2] && box[1] <= y && y <= box[3]);
  const size = ({ box }) => (box[2] - box[0]) * (box[3] - box[1]);
  return inside.sort((one, other) => size(one) - size(other))[0] ?? null;
}

function hover(event) {
  const one = at(event);
  const tip = get("tip");
  tip.hidden = !one;
  if (one) {
    tip.textContent = `${one.class} ${one.score.toFixed(3)}`;
    tip.style.setProperty("left", `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4)}px`);
    tip.style.setProperty("top", `${event.clientY + 14}px`);
  }
  if (one !== state.hovered) {
    state.hovered = one;
    paint();
  }
}

function choose(detection) {
  state.chosen = detection;
  show();
  if (detection) explain(detection);
  else get("explained").hidden = true;
}

async function explain(detection) {
  const model = state.found.findIndex((found) => found.detections.includes(detection));
  const place = get("explained");
  place.hidden = false;
  const text = document.createElement("pre");
  place.replaceChildren(text);
  const [x0, y0, x1, y1] = detection.box.map((side) => Math.round(side));
  const plain = `${detection.class}, score ${detection.score.toFixed(3)}\nfrom (${x0}, ${y0}) to (${x1}, ${y1})`;
  text.textContent = plain;
  if (!state.models[model]?.explains) return;
  const number = state.found[model].detections.indexOf(detection) + 1;
  const query = `score=${LOWEST}&box=${number}&model=${encodeURIComponent(state.models[model].name)}`;
  const response = await ask(`v1/explain?${query}`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: state.blob,
  });
  const answer = await response.json();
  if (state.chosen === detection) text.textContent = response.ok ? answer.text : `${plain}\n${answer.error}`;
}

function step(by) {
  const objects = shown(0);
  if (!objects.length) return;
  const now = objects.indexOf(state.chosen);
  choose(objects[(now + by + objects.length) % objects.length] ?? objects[0]);
}

// --- saving ----------------------------------------------------------------------------------------------------------

async function save(format) {
  const least = get("score").value;
  if (format === "png") {
    canvas.toBlob((blob) => download(blob, `${state.name}.png`), "image/png");
    return;
  }
  const kept = { ...state.found[0], detections: shown(0) };
  delete kept.masks;
  const coco = kept.detections.map((one) => ({
    image_id: 1,
    category_id: one.category_id,
    bbox: [one.box[0], one.box[1], one.box[2] - one.box[0], one.box[3] - one.box[1]],
    score: one.score,
    ...(one.segmentation ? { segmentation: one.segmentation } : {}),
  }));
  const text = JSON.stringify(format === "coco" ? coco : kept);
  download(new Blob([text], { type: "application/json" }), `${state.name}-${format}-${least}.json`);
}

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// --- camera ----------------------------------------------------------------------------------------------------------

async function toggleCamera() {
  const button = get("camera");
  if (state.camera) {
    state.camera.getTracks().forEach((track) => track.stop());
    state.camera = null;
    button.setAttribute("aria-pressed", "false");
    return;
  }
  try {
    state.camera = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    say(`The camera cannot be used (${error.message}).`);
    return;
  }
  button.setAttribute("aria-pressed", "true");
  const video = Object.assign(document.createElement("video"), { srcObject: state.camera, muted: true });
  await video.play();
  const frame = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  while (state.camera) {
    frame.getContext("2d").drawImage(video, 0, 0);
    await detect(await frame.convertToBlob({ type: "image/jpeg", quality: 0.85 }), "camera");
    await new Promise(requestAnimationFrame);
  }
}

// --- events ----------------------------------------------------------------------------------------------------------

const take = (file) => file && detect(file, file.name?.replace(/\.[^.]*$/, "") || "image");

get("file").addEventListener("change", (event) => take(event.target.files[0]));
get("sample").addEventListener("click", async () => take(await (await fetch("page/sample.jpg")).blob()));
get("camera").addEventListener("click", toggleCamera);
get("score").addEventListener("input", show);
get("split").addEventListener("input", paint);
get("all").addEventListener("click", () => setAll(true));
get("none").addEventListener("click", () => setAll(false));
for (const button of get("save").children) button.addEventListener("click", () => save(button.dataset.format));
canvas.addEventListener("mousemove", hover);
canvas.addEventListener("mouseleave", () => {
  get("tip").hidden = true;
  state.hovered = null;
  paint();
});
canvas.addEventListener("click", (event) => choose(at(event)));
canvas.addEventListener("keydown", (event) => {
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (by) {
    event.preventDefault();
    step(by);
  } else if (event.key === "Escape") choose(null);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    get("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  take([...event.clipboardData.items].find((item) => item.kind === "file")?.getAsFile());
});

addEventListener("resize", show);
const started = start();
started.catch((error) => say(error.message));
