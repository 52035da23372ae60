"use strict";

// Particles: two versions, with a boundary that slides or a blink.
(function () {
  const wipe = document.getElementById("wipe"), [first, second] = wipe.querySelectorAll("img"), tags = wipe.querySelectorAll(".tag");
  const cut = document.getElementById("cut"), blink = document.getElementById("blink");
  const strips = JSON.parse(document.getElementById("strips").textContent);
  let timer = 0;
  cut.addEventListener("input", () => wipe.style.setProperty("--cut", cut.value + "%"));
  for (const [name, picture, tag] of [["left", first, tags[0]], ["right", second, tags[1]]]) {
    const choice = document.getElementById(name);
    choice.addEventListener("change", () => {
      const label = choice.selectedOptions[0].textContent;
      picture.src = strips[Number(choice.value)];
      picture.alt = label + " images of the first particles of the montage";
      tag.textContent = label;
    });
  }
  blink.addEventListener("click", () => {
    const on = blink.getAttribute("aria-pressed") !== "true";
    blink.setAttribute("aria-pressed", String(on));
    wipe.classList.toggle("blinking", on);
    wipe.classList.remove("first");
    clearInterval(timer);
    if (on) timer = setInterval(() => wipe.classList.toggle("first"), 900);
  });
})();

// Maps: one surface at a time, at the level that encloses the chosen share of the box.
(function () {
  const holder = document.getElementById("viewer"), controls = document.getElementById("viewer-controls");
  const told = document.getElementById("viewer-told"), choice = document.getElementById("viewer-map"), level = document.getElementById("viewer-level");
  const data = JSON.parse(document.getElementById("viewer-maps").textContent);
  const length = data.box_size * data.voxel_size, volumes = new Map();
  let viewer = null;

  function hasWebGL() {
    const canvas = document.createElement("canvas");
    return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
  }

  function volumeOf(index) {
    if (!volumes.has(index)) {
      const bytes = Uint8Array.from(atob(data.maps[index].values), (letter) => letter.charCodeAt(0));
      const volume = new $3Dmol.VolumeData("", "none");
      const axes = (value) => ({ x: value, y: value, z: value });
      volume.size = axes(data.box_size);
      volume.unit = axes(data.voxel_size);
      volume.origin = axes(-data.voxel_size * Math.floor(data.box_size / 2));
      volume.data = Float32Array.from(new Int16Array(bytes.buffer));
      volumes.set(index, volume);
    }
    return volumes.get(index);
  }

  function draw() {
    const index = Number(choice.value), map = data.maps[index], step = Number(level.value);
    viewer.removeAllShapes();
    viewer.addIsosurface(volumeOf(index), { isoval: map.levels[step], color: map.color, smoothness: 2 });
    viewer.render();
    const share = data.shares[step], enclosed = share * length ** 3;
    told.textContent = `${(100 * share).toPrecision(2)} % of the box inside: ${Math.round(enclosed / 1000)} nm³, about ${Math.round(enclosed / 1210)} kDa of protein`;
    holder.dataset.drawn = map.label;
  }

  function start() {
    holder.replaceChildren();
    viewer = $3Dmol.createViewer(holder, { backgroundColor: "#f6f7f9", orthographic: true, disableFog: true, antialias: true });
    controls.hidden = false;
    draw();
    viewer.zoomTo();
    viewer.zoom(1.5);
    viewer.render();
    for (const input of [choice, level]) input.addEventListener("input", draw);
    for (const button of controls.querySelectorAll("button")) {
      button.addEventListener("click", () => (button.dataset.zoom ? zoom(Number(button.dataset.zoom)) : turn(Number(button.dataset.by), button.dataset.turn)));
    }
    const keys = { ArrowLeft: () => turn(-20, "y"), ArrowRight: () => turn(20, "y"), ArrowUp: () => turn(-20, "x"), ArrowDown: () => turn(20, "x"), "+": () => zoom(1.25), "-": () => zoom(0.8) };
    holder.addEventListener("keydown", (event) => {
      if (keys[event.key]) {
        event.preventDefault();
        keys[event.key]();
      }
    });
    // The page scrolls over the surface; with Ctrl the wheel zooms.
    for (const name of ["wheel", "mousewheel", "DOMMouseScroll"]) {
      holder.addEventListener(name, (event) => event.ctrlKey || event.stopImmediatePropagation(), true);
    }
  }

  function turn(by, axis) {
    viewer.rotate(by, axis);
    viewer.render();
  }

  function zoom(factor) {
    viewer.zoom(factor);
    viewer.render();
  }

  if (!hasWebGL()) return;
  new IntersectionObserver((entries, observer) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      observer.disconnect();
      start();
    }
  }, { rootMargin: "300px" }).observe(holder);
})();
