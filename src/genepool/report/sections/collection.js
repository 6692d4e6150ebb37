  // Maps of archives: cells along two scores of the reader's choice, coloured by a third; each tells its best model.
  all("figure[data-atlas]").forEach((figure) => {
    const data = JSON.parse(figure.dataset.atlas);
    const [which, across, up, colour] = ["which", "across", "up", "colour"].map((name) => figure.querySelector(`select.${name}`));
    const [least, most, taken] = ["least", "most", "chosen"].map((name) => figure.querySelector(`.${name}`));
    const percent = (value) => (100 * value).toFixed(1);
    const map = () => Number(which?.value ?? 0);
    const column = (select) => Number(select.value);
    // Rounding must not move 0.3 of ten cells into the third.
    const cellOf = (value) => Math.min(Math.max(Math.floor(data.bins * value + 1e-6), 0), data.bins - 1);
    const cells = () => {
      const found = new Map(), [i, j, k] = [across, up, colour].map(column);
      data.members.filter(([, atlas, scores]) => atlas === map() && [i, j, k].every((at) => scores[at] !== null)).forEach(([name, , scores]) => {
        const x = cellOf(scores[i]), y = cellOf(scores[j]), key = `${x} ${y}`, cell = found.get(key);
        if (!cell) found.set(key, { x, y, name, scores, worth: scores[k], others: 0 });
        else Object.assign(cell, { others: cell.others + 1 }, scores[k] > cell.worth ? { name, scores, worth: scores[k] } : {});
      });
      return [...found.values()].sort((a, b) => a.x - b.x || a.y - b.y);
    };

    const picture = (width, height) => {
      const filled = cells(), worths = filled.map((cell) => cell.worth);
      const low = Math.min(...worths), high = Math.max(...worths);
      const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img" });
      const name = (select) => select.selectedOptions[0].textContent;
      chart.append(svg("title", {}, `The best ${name(colour)} by ${name(across)} and ${name(up)}: ${filled.length} cells filled of ${data.bins ** 2}.`));
      const left = 48, right = 16, top = 14, bottom = 44, base = height - bottom;
      const wide = (width - left - right) / data.bins, tall = (base - top) / data.bins, at = (value) => value.toFixed(1);
      const X = (value) => left + value * wide * data.bins, Y = (value) => base - value * tall * data.bins;
      ticks(0, 1, 5).forEach(([value]) => chart.append(
        svg("line", { class: "grid", x1: left, x2: width - right, y1: at(Y(value)), y2: at(Y(value)) }),
        svg("line", { class: "grid", x1: at(X(value)), x2: at(X(value)), y1: top, y2: base }),
        svg("text", { class: "tick end", x: left - 8, y: at(Y(value) + 4) }, (100 * value).toFixed(0)),
        svg("text", { class: "tick middle", x: at(X(value)), y: base + 17 }, (100 * value).toFixed(0))));
      chart.append(
        svg("text", { class: "label middle", x: (left + width - right) / 2, y: height - 6 }, `${name(across)}, percent →`),
        svg("text", { class: "label middle", transform: `translate(12 ${(top + base) / 2}) rotate(-90)` }, `${name(up)}, percent →`));
      filled.forEach((cell) => {
        const share = high > low ? (cell.worth - low) / (high - low) : 1, x = left + cell.x * wide, y = base - (cell.y + 1) * tall;
        const group = svg("g", { class: `s${Math.round(share * data.steps)}` }, svg("rect", { class: "cell", x: at(x), y: at(y), width: at(wide), height: at(tall) }));
        if (wide > 34 && tall > 15) group.append(svg("text", { class: "cell", x: at(x + wide / 2), y: at(y + tall / 2 + 4) }, percent(cell.worth)));
        chart.append(group);
      });
      const ring = svg("rect", { class: "ring", width: at(wide), height: at(tall) });
      chart.append(svg("g", { class: "marker" }, ring));
      if (filled.length) { least.textContent = percent(low); most.textContent = percent(high); }
      return { chart, ring, filled, wide, tall, places: filled.map((cell) => [left + (cell.x + 0.5) * wide, base - (cell.y + 0.5) * tall]) };
    };

    const plots = all(".plot", figure).map((plot) => ({ plot, size: plot.classList.contains("wide") ? [960, 520] : [380, 360] }));
    const draw = () => plots.forEach((one) => { one.drawn = picture(...one.size); one.plot.replaceChildren(one.drawn.chart); });
    plots.forEach((one) => walk(one.plot, () => ({
      ...one.drawn,
      told: (i) => {
        const { name, scores, others } = one.drawn.filled[i];
        const told = data.scores.map((score, k) => scores[k] === null ? "" : `${score} ${percent(scores[k])}`).filter(Boolean);
        return [`candidate ${name}`, ...told, ...(others ? [`the best of ${others + 1} in this cell`] : [])];
      },
      marked: (i) => {
        const { chart, ring, filled, places, wide, tall } = one.drawn;
        chart.querySelector(".marker").classList.toggle("on", i >= 0);
        if (i < 0) return;
        ring.setAttribute("x", places[i][0] - wide / 2);
        ring.setAttribute("y", places[i][1] - tall / 2);
        taken.textContent = filled[i].name;
      },
    })));
    which?.addEventListener("change", () => {
      [colour.value, across.value, up.value] = data.maps[map()].slice(1);
      draw();
    });
    [across, up, colour].forEach((select) => select.addEventListener("change", draw));
    draw();
    const lines = () => [["candidate", "archive", ...data.scores], ...data.members.map(([name, atlas, scores]) => [name, data.maps[atlas][0], ...scores.map((value) => value ?? "")])];
    figure.querySelector("details").before(saveButton(figure.dataset.csv, lines));
  });
