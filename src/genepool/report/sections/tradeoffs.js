  // Trade-offs: two objectives of the reader's choice, larger is better on both; the front, intervals and descent.
  // By falling x, then y: a point is beaten exactly when one before it reaches as high, unless the two are equal.
  const frontOf = (points) => {
    const ordered = [...points].sort((a, b) => b.x - a.x || b.y - a.y), front = [];
    ordered.forEach((point) => {
      const last = front.at(-1);
      if (!last || point.y > last.y || (point.x === last.x && point.y === last.y)) front.push(point);
    });
    return front.reverse();
  };
  const MARKS = {
    disc: (x, y, r) => `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
    square: (x, y, r) => `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
    triangle: (x, y, r) => `M${x} ${y - 1.2 * r}l${1.2 * r} ${2.1 * r}h${-2.4 * r}Z`,
    diamond: (x, y, r) => `M${x} ${y - 1.35 * r}l${1.35 * r} ${1.35 * r}l${-1.35 * r} ${1.35 * r}l${-1.35 * r} ${-1.35 * r}Z`,
  };
  const mark = (kind, x, y, r) => MARKS[kind](+x.toFixed(1), +y.toFixed(1), r);
  all("figure[data-tradeoff]").forEach((figure) => {
    const data = JSON.parse(figure.dataset.tradeoff);
    const across = figure.querySelector(".across"), up = figure.querySelector(".up"), examples = figure.querySelector(".examples");
    const legend = figure.querySelector(".legend");
    const percent = (value) => (100 * value).toFixed(1);
    const chosen = () => data.splits[examples ? Number(examples.value) : 0];
    const hidden = new Set();
    const seen = (split) => {
      const i = 3 * Number(across.value), j = 3 * Number(up.value);
      return split.points.map(([name, series, won, scores, parents], place) => ({
        name, series, won, parents, place, scores,
        x: scores[i], xLow: scores[i + 1], xHigh: scores[i + 2], y: scores[j], yLow: scores[j + 1], yHigh: scores[j + 2],
      })).filter((point) => point.x !== null && point.y !== null && !hidden.has(split.series[point.series][0]));
    };
    // What is drawn large, named and crossed by its intervals: models, winners and the front.
    const isModel = (split, point) => split.series[point.series][2] !== "disc" || point.won;

    const picture = (width, height) => {
      const split = chosen(), points = seen(split), front = frontOf(points), onFront = new Set(front);
      const large = points.filter((point) => isModel(split, point) || onFront.has(point));
      const chart = svg("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img" });
      const name = (select) => select.selectedOptions[0].textContent;
      chart.append(svg("title", {}, `${name(up)} against ${name(across)} on ${split.name} examples: ${points.length} points, ${front.length} on the front.`));
      if (!points.length) return { chart, points: [], places: [] };
      const left = 48, right = 16, top = 14, bottom = 44;
      const range = (value, low, high) => {
        const ends = [...points.map((p) => p[value]), ...large.flatMap((p) => [p[low], p[high]].filter((end) => end !== null))];
        const least = Math.min(...ends), most = Math.max(...ends), pad = 0.04 * (most - least) || 0.02;
        return [Math.max(least - pad, Math.min(least, -0.02)), Math.min(most + pad, Math.max(most, 1.02))];
      };
      const [xLeast, xMost] = range("x", "xLow", "xHigh"), [yLeast, yMost] = range("y", "yLow", "yHigh");
      const X = (value) => left + (value - xLeast) / (xMost - xLeast) * (width - left - right);
      const Y = (value) => height - bottom - (value - yLeast) / (yMost - yLeast) * (height - top - bottom);
      const base = height - bottom, at = (value) => value.toFixed(1);
      const axes = svg("g");
      ticks(yLeast, yMost, 6).forEach(([value, digits]) => axes.append(
        svg("line", { class: "grid", x1: left, x2: width - right, y1: at(Y(value)), y2: at(Y(value)) }),
        svg("text", { class: "tick end", x: left - 8, y: at(Y(value) + 4) }, (100 * value).toFixed(digits))));
      ticks(xLeast, xMost, width < 500 ? 4 : 8).forEach(([value, digits]) => axes.append(
        svg("line", { class: "grid", x1: at(X(value)), x2: at(X(value)), y1: top, y2: base }),
        svg("text", { class: "tick middle", x: at(X(value)), y: base + 17 }, (100 * value).toFixed(digits))));
      axes.append(
        svg("text", { class: "label middle", x: (left + width - right) / 2, y: height - 6 }, `${name(across)}, percent →`),
        svg("text", { class: "label middle", transform: `translate(12 ${(top + base) / 2}) rotate(-90)` }, `${name(up)}, percent →`));
      chart.append(axes);
      // The border of what the front beats: down from each of its points, then on to the next.
      const stairs = front.map((p, k) => k ? `V${at(Y(p.y))}H${at(X(p.x))}` : `M${left} ${at(Y(p.y))}H${at(X(p.x))}`).join("") + `V${base}`;
      chart.append(svg("path", { class: "front", d: stairs }));
      const byPlace = new Map(points.map((point) => [point.place, point]));
      const ancestry = (ends) => {
        const drawn = new Set(), ahead = [...ends], edges = [];
        while (ahead.length) {
          const child = ahead.pop();
          if (drawn.has(child)) continue;
          drawn.add(child);
          child.parents.map((place) => byPlace.get(place)).filter(Boolean).forEach((parent) => {
            edges.push(`M${at(X(parent.x))} ${at(Y(parent.y))}L${at(X(child.x))} ${at(Y(child.y))}`);
            ahead.push(parent);
          });
        }
        return edges.join("");
      };
      points.filter((point) => point.won && ancestry([point])).forEach((point) => chart.append(
        svg("g", { class: split.series[point.series][1] }, svg("path", { class: "descent", d: ancestry([point]) }))));
      const hot = svg("path", { class: "descent hot" });
      chart.append(hot);
      split.series.forEach(([, style, kind], s) => {
        const own = points.filter((point) => point.series === s), small = own.filter((point) => !large.includes(point));
        const group = svg("g", { class: style });
        if (small.length) group.append(svg("path", { class: "dots", d: small.map((p) => `M${at(X(p.x))} ${at(Y(p.y))}h0`).join("") }));
        const crosses = own.filter((point) => large.includes(point)).map((p) =>
          (p.xLow === null ? "" : `M${at(X(p.xLow))} ${at(Y(p.y))}H${at(X(p.xHigh))}`) + (p.yLow === null ? "" : `M${at(X(p.x))} ${at(Y(p.yLow))}V${at(Y(p.yHigh))}`)).join("");
        if (crosses) group.append(svg("path", { class: "whisker cross", d: crosses }));
        own.filter((point) => large.includes(point)).forEach((p) => group.append(
          svg("path", { class: p.won ? "mark won" : onFront.has(p) ? "mark" : "mark beaten", d: mark(kind, X(p.x), Y(p.y), p.won ? 7 : isModel(split, p) ? 5 : 3.4) })));
        chart.append(group);
      });
      // Names, where there is room for them; the others are told under the pointer.
      const taken = large.map((p) => [X(p.x) - 6, Y(p.y) - 6, X(p.x) + 6, Y(p.y) + 6]);
      const names = svg("g");
      points.filter((point) => isModel(split, point)).sort((a, b) => b.won - a.won || onFront.has(b) - onFront.has(a)).forEach((p) => {
        const told = p.won ? split.series[p.series][0] : p.name, room = width < 500 ? 16 : 26;
        const text = told.length > room ? `${told.slice(0, room - 1)}…` : told;
        const wide = (p.won ? 8.4 : 7) * text.length + 4, x = X(p.x), y = Y(p.y);
        const spots = [[x + 10, y - 16], [x - 10 - wide, y - 16], [x + 10, y + 3], [x - 10 - wide, y + 3], [x - wide / 2, y - 25], [x - wide / 2, y + 10]];
        const spot = spots.map(([l, t]) => [l, t, l + wide, t + 14]).find(([l, t, r, b]) => l > left && r < width && t > 0 && b < base
          && taken.every(([tl, tt, tr, tb]) => r < tl || l > tr || b < tt || t > tb));
        if (!spot) return;
        taken.push(spot);
        names.append(svg("g", { class: split.series[p.series][1] }, svg("text", { class: p.won ? "name won halo" : "name halo", x: at(spot[0] + 2), y: at(spot[1] + 11) }, text)));
      });
      const ring = svg("circle", { class: "ring", r: 9 });
      chart.append(names, svg("g", { class: "marker" }, ring));
      const ordered = [...points].sort((a, b) => a.x - b.x || a.y - b.y);
      return { chart, ring, hot, ancestry, onFront, points: ordered, places: ordered.map((p) => [X(p.x), Y(p.y)]) };
    };

    const plots = all(".plot", figure).map((plot) => ({ plot, size: plot.classList.contains("wide") ? [960, 520] : [380, 360] }));
    const draw = () => plots.forEach((one) => { one.drawn = picture(...one.size); one.plot.replaceChildren(one.drawn.chart); });
    const between = (value, low, high) => low === null ? percent(value) : `${percent(value)} (${percent(low)}–${percent(high)})`;
    plots.forEach((one) => walk(one.plot, () => ({
      ...one.drawn,
      told: (i) => {
        const split = chosen(), p = one.drawn.points[i], series = split.series[p.series][0];
        const lines = [series === p.name ? p.name : `${series}: ${p.name}`,
          `${across.selectedOptions[0].textContent} ${between(p.x, p.xLow, p.xHigh)}`, `${up.selectedOptions[0].textContent} ${between(p.y, p.yLow, p.yHigh)}`];
        if (p.parents.length) lines.push(`from ${p.parents.map((place) => split.points[place][0]).join(", ")}`);
        const states = [p.won ? "chosen by its search" : "", one.drawn.onFront.has(p) ? "on the front" : ""].filter(Boolean);
        return states.length ? [...lines, states.join(", ")] : lines;
      },
      marked: (i) => {
        const { ring, hot, chart, points, places, ancestry } = one.drawn;
        chart.querySelector(".marker")?.classList.toggle("on", i >= 0);
        hot?.setAttribute("d", i >= 0 ? ancestry([points[i]]) : "");
        if (i >= 0) { ring.setAttribute("cx", places[i][0]); ring.setAttribute("cy", places[i][1]); }
      },
    })));
    const list = () => legend.replaceChildren(
      ...chosen().series.map(([label, style, kind]) => {
        const sample = svg("svg", { class: "key", viewBox: "0 0 14 14", "aria-hidden": "true" }, svg("path", { class: "mark", d: mark(kind, 7, 7, 4.5) }));
        const button = make("button", { type: "button", className: "toggle" }, sample, make("bdi", { textContent: label }));
        button.setAttribute("aria-pressed", String(!hidden.has(label)));
        button.addEventListener("click", () => {
          if (!hidden.delete(label)) hidden.add(label);
          button.setAttribute("aria-pressed", String(!hidden.has(label)));
          draw();
        });
        return make("li", { className: style }, button);
      }),
      make("li", { className: "levelkey" }, svg("svg", { class: "key", viewBox: "0 0 20 14", "aria-hidden": "true" }, svg("path", { class: "front", d: "M1 4H10V11H19" })), "front"));
    // The same objective on both axes says nothing: the other axis takes the one this axis had.
    [[across, up], [up, across]].forEach(([one, other]) => {
      let before = one.value;
      one.addEventListener("change", () => {
        if (other.value === one.value) { other.value = before; other.dispatchEvent(new Event("change")); }
        before = one.value;
        draw();
      });
    });
    examples?.addEventListener("change", () => { list(); draw(); });
    list();
    draw();
    const lines = () => [
      ["examples", "series", "name", ...data.objectives.flatMap((one) => [one, `${one} low`, `${one} high`]), "chosen", "came from"],
      ...data.splits.flatMap((split) => split.points.map(([name, series, won, scores, parents]) =>
        [split.name, split.series[series][0], name, ...scores.map((value) => value ?? ""), won ? "yes" : "", parents.map((place) => split.points[place][0]).join("; ")]))];
    figure.querySelector("details").before(saveButton(figure.dataset.csv, lines));
  });
