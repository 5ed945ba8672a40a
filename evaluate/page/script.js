"use strict";
// Moves the cursors of the time lines, plays videos or stills beside them, and shows detections
// from a score. Everything it needs stands in the page; without it the page can still be read.
(() => {
  document.documentElement.classList.add("js");
  const scenes = [...document.querySelectorAll(".scene")].map(makeScene);

  function makeScene(root) {
    const duration = Number(root.dataset.duration);
    const tracks = root.querySelector(".tracks");
    const cursor = root.querySelector(".cursor");
    const readout = root.querySelector(".readout");
    const still = root.querySelector(".still");
    const video = root.querySelector("video");
    const button = root.querySelector(".play");
    const names = [...root.querySelectorAll(".names b")].map((b) => b.textContent);
    const rows = [...root.querySelectorAll(".tracks-svg > svg")].map((svg) =>
      [...svg.querySelectorAll(".seg")].map((element) => ({
        element,
        over: element.nextElementSibling?.matches(".hatch") ? element.nextElementSibling : null,
        label: element.dataset.label,
        start: Number(element.dataset.start),
        end: Number(element.dataset.end),
        score: element.dataset.score === undefined ? null : Number(element.dataset.score),
        right: element.classList.contains("right"),
      })),
    );
    let now = 0;
    let timer = null;

    const clock = (s) =>
      duration < 120 ? `${s.toFixed(1)} s` : `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")}`;

    function describe() {
      const said = rows.map((row, i) => {
        const here = row.filter((s) => s.start <= now && now < s.end && !s.element.classList.contains("off"));
        here.sort((a, b) => (b.score ?? 0) - (a.score ?? 0));
        const words = here.slice(0, 3).map((s) =>
          s.score === null ? s.label : `${s.label} ${s.score.toFixed(2)}${s.right ? " ✓" : " ✗"}`);
        return `${names[i]}: ${words.join(", ") || "–"}`;
      });
      return `${clock(now)} · ${said.join(" · ")}`;
    }

    function show() {
      const at = `${(100 * now) / duration}%`;
      cursor.setAttribute("x1", at);
      cursor.setAttribute("x2", at);
      const text = describe();
      readout.textContent = text;
      tracks.setAttribute("aria-valuenow", now.toFixed(2));
      tracks.setAttribute("aria-valuetext", text);
      if (still) {
        const count = Number(still.dataset.stills);
        still.style.setProperty("--still", Math.min(Math.floor((now / duration) * count), count - 1));
      }
    }

    function seek(seconds) {
      now = Math.min(Math.max(seconds, 0), duration);
      if (plays() && Number.isFinite(video.duration)) video.currentTime = Math.min(now, video.duration);
      show();
    }

    const plays = () => video && !video.closest(".failed");

    function follow() {
      now = Math.min(video.currentTime, duration);
      show();
      if (!video.paused) requestAnimationFrame(follow);
    }

    function toggle() {
      if (plays()) {
        if (video.paused) video.play();
        else video.pause();
        return;
      }
      if (timer !== null) {
        clearInterval(timer);
        timer = null;
      } else {
        if (now >= duration) now = 0;
        let last = performance.now();
        timer = setInterval(() => {
          const time = performance.now();
          seek(now + (time - last) / 1000);
          last = time;
          if (now >= duration) toggle();
        }, 50);
      }
      if (button) button.textContent = timer === null ? "Play" : "Pause";
    }

    function step(direction) {
      const starts = [...new Set(rows[0].map((s) => s.start))].sort((a, b) => a - b);
      const next = direction > 0
        ? starts.find((s) => s > now + 0.01)
        : starts.reverse().find((s) => s < now - 0.01);
      if (next !== undefined) seek(next);
    }

    function point(event) {
      const box = tracks.getBoundingClientRect();
      seek(((event.clientX - box.left) / box.width) * duration);
    }

    tracks.addEventListener("pointerdown", (event) => {
      tracks.setPointerCapture(event.pointerId);
      point(event);
    });
    tracks.addEventListener("pointermove", (event) => {
      if (event.buttons) point(event);
    });
    tracks.addEventListener("keydown", (event) => {
      const small = Math.max(duration / 100, 0.1) * (event.shiftKey ? 5 : 1);
      const action = {
        ArrowRight: () => seek(now + small),
        ArrowLeft: () => seek(now - small),
        ArrowUp: () => step(-1),
        ArrowDown: () => step(1),
        PageUp: () => seek(now - duration / 10),
        PageDown: () => seek(now + duration / 10),
        Home: () => seek(0),
        End: () => seek(duration),
        " ": toggle,
      }[event.key];
      if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      action();
    });
    if (button) button.addEventListener("click", toggle);
    if (video) {
      video.addEventListener("error", () => video.parentElement.classList.add("failed"));
      if (video.error) video.parentElement.classList.add("failed");
      for (const name of ["play", "seeked", "timeupdate"]) video.addEventListener(name, follow);
    }

    // Show what has at least a score; each detector from its own best one if none is given.
    function showFrom(score) {
      root.querySelectorAll(".from").forEach((note, i) => {
        const from = score ?? Number(note.dataset.own);
        let right = 0;
        let wrong = 0;
        for (const segment of rows[i + 1]) {
          const shown = segment.score >= from;
          segment.element.classList.toggle("off", !shown);
          if (segment.over) segment.over.classList.toggle("off", !shown);
          if (shown && segment.right) right += 1;
          else if (shown) wrong += 1;
        }
        note.textContent = `≥ ${from.toFixed(2)}`;
        note.parentElement.querySelector(".count").textContent = `${right} right, ${wrong} wrong`;
      });
      show();
    }

    return { showFrom };
  }

  const control = document.querySelector(".control");
  if (control) {
    const slider = control.querySelector("input");
    const output = control.querySelector("output");
    slider.addEventListener("input", () => {
      output.textContent = Number(slider.value).toFixed(2);
      scenes.forEach((scene) => scene.showFrom(Number(slider.value)));
    });
    control.addEventListener("submit", (event) => event.preventDefault());
    control.addEventListener("reset", () => {
      output.textContent = "each at its best F1";
      scenes.forEach((scene) => scene.showFrom(null));
    });
  }
})();
