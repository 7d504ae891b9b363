(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  for (const [name, spec] of Object.entries(specs)) {
    const place = document.getElementById(name);
    vegaEmbed(place, spec, { renderer: "svg", actions: false, ast: true })
      .then(() => { place.dataset.drawn = "yes"; })
      .catch((error) => { place.textContent = "This chart could not be drawn."; console.error(error); });
  }
})();
