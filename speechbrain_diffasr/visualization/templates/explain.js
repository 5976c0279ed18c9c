"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  // A row of the time line is cut so that a second gets this many pixels or more.
  const MIN_PIXELS_PER_SECOND = 100;
  // The steps play in about 6 s, however many there are.
  const PLAY_MS = 6000, FASTEST_MS = 150, SLOWEST_MS = 800;
  const UNSURE = 0.5;
  // Columns from which on a token is set smaller, and the height of the fullest bar.
  const MEDIUM = 5, LONG = 7, BAR_PX = 38;

  const make = (parent, tag, className, text) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  };
  const draw = (parent, tag, attributes) => {
    const element = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    parent.append(element);
    return element;
  };
  const seconds = (value) => `${value.toFixed(2)} s`;
  const percent = (value) => `${Math.round(100 * value)} %`;
  const wordTitle = (word) =>
    `${seconds(word.start)} to ${seconds(word.end)}, confidence ${percent(word.confidence)}`;
  const isAccepted = (frame, place) => frame.accepted[place] === "1";
  const isGiven = (frame, place) => frame.step === 0 && data.given[place] === "1";
  // Of CTC or a draft, tokens that became text or were to; all is noise if there are none.
  const fates = (wanted) => data.fates.filter((fate) => fate === wanted).length;
  const hasSource = data.given.includes("1");

  // Sound ---------------------------------------------------------------------------------------
  const audio = byId("audio"), listen = byId("listen"), timeline = byId("timeline");
  let rows = [], wordButtons = [], pieceButtons = [], nowWord = null, nowPiece = null;

  const seek = (time, andPlay) => {
    audio.currentTime = Math.min(time, data.duration);
    if (andPlay) audio.play().catch(() => {});
    followSound();
  };

  const peakPath = (start, end) => {
    const first = Math.floor(start * data.peaks_per_second);
    const last = Math.min(Math.ceil(end * data.peaks_per_second), data.peaks.length / 2);
    const x = (place) => 1000 * (place / data.peaks_per_second - start) / (end - start);
    const top = [], bottom = [];
    for (let place = first; place < last; place += 1) {
      const low = data.peaks[2 * place], high = data.peaks[2 * place + 1];
      top.push(`${x(place).toFixed(1)},${(50 - Math.max(high, 1) * 0.48).toFixed(1)}`);
      bottom.unshift(`${x(place).toFixed(1)},${(50 - Math.min(low, -1) * 0.48).toFixed(1)}`);
    }
    return top.length ? `M${top.join("L")}L${bottom.join("L")}Z` : "";
  };

  const tickStep = (pixelsPerSecond) =>
    [0.1, 0.2, 0.5, 1, 2, 5].find((step) => step * pixelsPerSecond >= 64) || 10;

  // Words that would overlap go to the first lane below that has room.
  const placeWords = (row, width) => {
    const laneEnds = [];
    const scale = width / (row.end - row.start);
    for (const { button, word, span } of row.words) {
      const left = Math.max(0, (word.start - row.start) * scale);
      const right = Math.min(width, (word.end - row.start) * scale);
      span.style.left = `${left}px`;
      span.style.width = `${Math.max(3, right - left - 2)}px`;
      const size = button.offsetWidth;
      const middle = (left + right) / 2;
      const x = Math.max(0, Math.min(width - size, middle - size / 2));
      let lane = laneEnds.findIndex((end) => end + 4 <= x);
      if (lane < 0) lane = laneEnds.push(0) - 1;
      laneEnds[lane] = x + size;
      button.style.left = `${x}px`;
      button.style.top = `${0.55 + 2 * lane}rem`;
    }
    row.lanes.style.height = `${0.75 + 2 * laneEnds.length}rem`;
  };

  const buildTimeline = () => {
    const width = timeline.clientWidth;
    if (!width) return;  // a page that is not laid out yet, such as one in a hidden frame
    const focused = wordButtons.indexOf(document.activeElement);
    const count = Math.max(1, Math.ceil(data.duration * MIN_PIXELS_PER_SECOND / width));
    const length = data.duration / count;
    timeline.replaceChildren();
    rows = [];
    wordButtons = [];
    for (let place = 0; place < count; place += 1) {
      const start = place * length, end = start + length;
      const element = make(timeline, "div", "row");
      const svg = draw(element, "svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" });
      draw(svg, "line", { class: "axis", x1: 0, x2: 1000, y1: 50, y2: 50 });
      draw(svg, "path", { class: "shape", d: peakPath(start, end) });
      svg.addEventListener("click", (event) => {
        const box = svg.getBoundingClientRect();
        seek(start + (event.clientX - box.left) / box.width * length, !audio.paused);
      });
      const ticks = make(element, "div", "ticks");
      ticks.setAttribute("aria-hidden", "true");
      const step = tickStep(width / length);
      for (let tick = Math.ceil(start / step - 1e-6); tick * step < end - 1e-6; tick += 1) {
        const x = (tick * step - start) / length * width;
        if (x > width - 40) continue;
        make(ticks, "span", "", `${(tick * step).toFixed(step < 1 ? 1 : 0)} s`).style.left = `${x}px`;
      }
      const lanes = make(element, "div", "lanes");
      const head = make(element, "div", "head");
      rows.push({ start, end, lanes, head, words: [] });
    }
    data.words.forEach((word, index) => {
      const row = rows[Math.min(count - 1, Math.floor(word.start / length))];
      const span = make(row.lanes, "span", "span");
      const button = make(row.lanes, "button", "word", word.text);
      button.type = "button";
      if (data.language) button.lang = data.language;
      button.classList.toggle("unsure", word.confidence < UNSURE);
      button.title = wordTitle(word);
      button.setAttribute("aria-label", `${word.text}, ${button.title}`);
      button.addEventListener("click", () => seek(word.start, true));
      row.words.push({ button, word, span });
      wordButtons[index] = button;
    });
    rows.forEach((row) => placeWords(row, width));
    if (focused >= 0) wordButtons[focused].focus();
    nowWord = null;
    followSound();
  };

  const buildPieces = () => {
    for (const piece of data.pieces) {
      const button = make(byId("pieces"), "button", "piece");
      button.type = "button";
      const label = make(button, "span", "", piece.text);
      label.dir = "auto";
      if (!piece.text) make(label, "i", "gap");
      make(button, "small", "", percent(piece.probability));
      button.title = `${seconds(piece.start)} to ${seconds(piece.end)}`;
      button.setAttribute("aria-label", `${piece.text || "space"}, ${button.title}, ${percent(piece.probability)}`);
      button.addEventListener("click", () => seek(piece.start, true));
      pieceButtons.push(button);
    }
    byId("ctc").textContent = data.ctc || "nothing";
    byId("ctc").classList.toggle("none", !data.ctc);
    byId("ctc-note").textContent = data.ctc === data.text
      ? "The same as the transcript." : "Not the same as the transcript.";
  };

  const mark = (buttons, before, now) => {
    if (buttons[before]) buttons[before].classList.remove("now");
    if (buttons[now]) buttons[now].classList.add("now");
  };

  const followSound = () => {
    const time = audio.currentTime;
    for (const row of rows) {
      const inside = time >= row.start && (time < row.end || row === rows[rows.length - 1]);
      row.head.hidden = !inside;
      row.head.style.left = `${Math.min(100, 100 * (time - row.start) / (row.end - row.start))}%`;
    }
    const started = time > 0 || !audio.paused;
    const inside = (part) => started && time >= part.start && time < part.end;
    const word = data.words.findIndex(inside), piece = data.pieces.findIndex(inside);
    if (word !== nowWord) {
      mark(wordButtons, nowWord, word);
      for (const row of rows) for (const part of row.words) part.span.classList.toggle("now", part.word === data.words[word]);
      nowWord = word;
      const note = byId("word-note");
      note.textContent = "";
      if (word >= 0) {
        const name = make(note, "b", "", data.words[word].text);
        name.dir = "auto";
        if (data.language) name.lang = data.language;
        note.append(` · ${wordTitle(data.words[word])}`);
      } else if (!data.words.length) note.textContent = "Nothing was heard.";
      else note.textContent = "Choose a word to hear it; dotted words are unsure.";
    }
    if (piece !== nowPiece) {
      mark(pieceButtons, nowPiece, piece);
      nowPiece = piece;
    }
    byId("clock").textContent = `${time.toFixed(1)} / ${data.duration.toFixed(1)} s`;
  };

  const followWhilePlaying = () => {
    followSound();
    if (!audio.paused && !audio.ended) requestAnimationFrame(followWhilePlaying);
  };
  const showListening = () => {
    const playing = !audio.paused && !audio.ended;
    listen.setAttribute("aria-pressed", playing);
    listen.querySelector(".label").textContent = playing ? "Pause" : "Listen";
    // A live region that changed with every word would talk over the sound.
    byId("word-note").setAttribute("aria-live", playing ? "off" : "polite");
    if (playing) followWhilePlaying();
  };
  for (const name of ["play", "pause", "ended"]) audio.addEventListener(name, showListening);
  for (const name of ["timeupdate", "seeked"]) audio.addEventListener(name, followSound);
  listen.addEventListener("click", () => {
    if (audio.paused || audio.ended) audio.play().catch(() => {});
    else audio.pause();
  });

  // Steps ---------------------------------------------------------------------------------------
  const slider = byId("slider"), play = byId("play"), canvas = byId("canvas");
  const last = data.frames.length - 1;
  const START = !hasSource ? "Noise" : data.origin === "CTC" ? "What CTC read" : "The draft";
  const highest = Math.max(1e-6, ...data.frames.flatMap((frame) => frame.entropy));
  let step = -1, timer = 0, cells = [], glanceRows = [];

  const showToken = (element, [text, space, kind]) => {
    element.replaceChildren();
    element.className = "token";
    if (kind === "end") {
      element.classList.add("end");
      element.textContent = "·";
      return;
    }
    if (kind !== "text") element.classList.add("name");
    if (space || !text) make(element, "span", "gap");
    make(element, "bdi", "", text);
    // Han, kana and the like are as wide as two letters.
    const columns = [...text].reduce((sum, character) => sum + (character >= "\u2e80" ? 2 : 1), +space);
    if (columns >= MEDIUM) element.classList.add(columns >= LONG ? "long" : "medium");
  };

  // What became of the start is told where it is, and at the end.
  const FUTURE = { stayed: "the same at the end", changed: "another at the end", filled: "not given" };
  const PAST = { stayed: `as ${data.origin} gave it`, changed: `not what ${data.origin} gave`, filled: "noise at the start" };
  const fateOf = (frame, place) =>
    (hasSource && (frame.step === 0 || frame === data.frames[last]) && data.fates[place]) || "";

  const describe = (frame, place) => {
    const [text, space, kind] = data.tokens[frame.canvas[place]];
    const name = kind === "end" ? "end of text" : `${space ? "␣" : ""}${text}`;
    const state = isGiven(frame, place) ? `given by ${data.origin}` : isAccepted(frame, place) ? "accepted" : "noise";
    const parts = [`Position ${place + 1}`, state, name];
    const fate = fateOf(frame, place);
    if (fate && frame.step === 0) parts.push(FUTURE[fate]);
    else if (fate) parts.push(PAST[fate]);
    if (frame.entropy.length) parts.push(`entropy ${frame.entropy[place].toFixed(4)} nats`);
    if (frame.tokens.length && frame.tokens[place] !== frame.canvas[place]) {
      const [guess, , guessKind] = data.tokens[frame.tokens[place]];
      parts.push(`most probable: ${guessKind === "end" ? "end of text" : guess}`);
    }
    return parts.join(", ");
  };

  const buildCanvas = () => {
    cells = data.frames[0].canvas.map(() => {
      const cell = make(canvas, "li", "cell");
      // What a pointer shows by hovering, a finger shows by touching.
      cell.addEventListener("click", () => { byId("cell-note").textContent = cell.title; });
      return { cell, token: make(cell, "span", "token"), bar: make(cell, "span", "bar") };
    });
    slider.max = last;
    byId("scale-note").textContent =
      `entropy, from 0 to ${highest.toFixed(2)} nats (the height grows with its square root)`;
  };

  const buildGlance = () => {
    const glance = byId("glance");
    const size = cells.length;
    glance.setAttribute("aria-label", data.frames.slice(1).map(
      (frame) => `step ${frame.step}: ${frame.accepted.split("1").length - 1} of ${size} accepted`).join("; "));
    glanceRows = data.frames.map((frame, place) => {
      const row = make(glance, "div", "step-row");
      make(row, "span", "", place ? `${frame.step}` : hasSource ? "start" : "noise");
      const svg = draw(row, "svg", { viewBox: `0 0 ${size} 14`, preserveAspectRatio: "none" });
      let solid = "", dash = "", pale = "";
      for (let x = 0; x < size; x += 1) {
        if (isGiven(frame, x)) pale += `M${x + 0.06},1h.88v12h-.88z`;
        else if (isAccepted(frame, x)) solid += `M${x + 0.06},1h.88v12h-.88z`;
        else dash += `M${x + 0.2},6h.6v2h-.6z`;
      }
      draw(svg, "path", { class: "solid", d: solid });
      draw(svg, "path", { class: "dash", d: dash });
      draw(svg, "path", { class: "pale", d: pale });
      row.addEventListener("click", () => { pause(); show(place); });
      return row;
    });
  };

  const show = (wanted) => {
    const next = Math.max(0, Math.min(last, wanted));
    if (next === step) return;
    step = next;
    const frame = data.frames[step], before = data.frames[step - 1];
    let accepted = 0, fresh = 0;
    cells.forEach(({ cell, token, bar }, place) => {
      const kept = isAccepted(frame, place);
      const isNew = kept && !isAccepted(before, place);
      accepted += kept;
      fresh += isNew;
      const state = isGiven(frame, place) ? "given" : kept ? "accepted" : "noise";
      cell.className = ["cell", state, isNew && "new", fateOf(frame, place)].filter(Boolean).join(" ");
      showToken(token, data.tokens[frame.canvas[place]]);
      const height = step ? Math.max(1, BAR_PX * Math.sqrt(frame.entropy[place] / highest)) : 0;
      bar.style.height = `${height.toFixed(1)}px`;
      cell.title = describe(frame, place);
      cell.setAttribute("aria-label", cell.title);
    });
    const name = step ? `Step ${frame.step} of ${data.frames[last].step}` : `${START}, before the first step`;
    const became = hasSource ? ` · of ${data.origin}: ${fates("stayed")} stayed, ${fates("changed")} changed; ${fates("filled")} noise` : "";
    const note = step
      ? `${accepted} of ${cells.length} accepted, ${fresh} of them new · mean entropy ${frame.mean_entropy.toFixed(4)} nats${step === last ? became : ""}`
      : hasSource ? `${cells.length} positions${became}` : `${cells.length} random tokens of the vocabulary`;
    byId("step-name").textContent = name;
    byId("cell-note").textContent = "";
    byId("step-note").textContent = note;
    canvas.setAttribute("aria-label", `Canvas, ${name}`);
    byId("reading").textContent = frame.text || (step ? "nothing" : "not read yet");
    byId("reading").classList.toggle("none", !frame.text);
    slider.value = step;
    slider.setAttribute("aria-valuetext", `${name}; ${note}${step ? `; ${frame.text}` : ""}`);
    glanceRows.forEach((row, place) => row.classList.toggle("now", place === step));
  };

  const pause = () => {
    clearInterval(timer);
    timer = 0;
    play.setAttribute("aria-pressed", "false");
    play.setAttribute("aria-label", "Play the steps");
  };
  const start = () => {
    if (step === last) show(0);
    play.setAttribute("aria-pressed", "true");
    play.setAttribute("aria-label", "Pause the steps");
    timer = setInterval(() => {
      show(step + 1);
      if (step === last) pause();
    }, Math.max(FASTEST_MS, Math.min(SLOWEST_MS, PLAY_MS / last)));
  };
  const toggle = () => (timer ? pause() : start());

  play.addEventListener("click", toggle);
  slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    const targets = { ArrowLeft: step - 1, ArrowRight: step + 1, Home: 0, End: last };
    const onButton = event.target.closest && event.target.closest("button");
    if (event.key === " " && !onButton) toggle();
    else if (event.key in targets) { pause(); show(targets[event.key]); }
    else return;
    event.preventDefault();
  });

  buildCanvas();
  buildGlance();
  buildPieces();
  buildTimeline();
  show(0);
  let width = rows.length ? timeline.clientWidth : 0;
  new ResizeObserver(() => {
    if (timeline.clientWidth === width) return;
    width = timeline.clientWidth;
    buildTimeline();
  }).observe(timeline);
  if (document.fonts) document.fonts.ready.then(() => rows.forEach((row) => placeWords(row, timeline.clientWidth)));
})();
