document.querySelectorAll("input.filter").forEach(function (box) {
  const root = box.parentElement;
  box.hidden = false;
  box.addEventListener("input", function () {
    const wanted = box.value.trim().toLowerCase();
    root.querySelectorAll("li[data-path]").forEach(function (leaf) {
      leaf.hidden = wanted !== "" && !leaf.textContent.toLowerCase().includes(wanted) && !leaf.dataset.path.includes(wanted);
    });
    root.querySelectorAll("details").forEach(function (group) {
      const shown = group.querySelector("li[data-path]:not([hidden])") !== null;
      group.hidden = !shown;
      group.open = wanted !== "" && shown;
    });
  });
});
