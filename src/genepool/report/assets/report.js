"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  all(".js").forEach((node) => { node.hidden = false; });

  // Theme: the system's choice until the reader makes one; ?theme=dark fixes it for pictures.
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const remembered = () => { try { return localStorage.getItem("genepool-theme"); } catch { return null; } };
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { button.textContent = dark() ? "Light" : "Dark"; button.ariaLabel = `Switch to the ${dark() ? "light" : "dark"} theme`; };
  const asked = new URLSearchParams(location.search).get("theme") || remembered();
  if (asked === "dark" || asked === "light") root.dataset.theme = asked;
  button.hidden = false;
  label();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("genepool-theme", root.dataset.theme); } catch { /* a file may not keep anything */ }
    label();
  });

  // Sorting: inside each group of models, or across all of them.
  const cellValue = (row, column) => {
    const cell = row.cells[column];
    const given = cell.dataset.v ?? (cell.classList.contains("none") ? "" : cell.textContent.trim());
    if (given === "" || given === "–") return null;
    return cell.tagName === "TH" || Number.isNaN(Number(given)) ? given : Number(given);
  };
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, { numeric: true }));
  };
  const sorting = (heads, sorted) => {
    let column = null, sign = -1;
    heads.forEach((head, i) => head.querySelector(".sort")?.addEventListener("click", (event) => {
      const first = event.target.dataset.first === "ascending" ? 1 : -1;
      sign = column === i ? -sign : first;
      column = i;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      sorted(column, sign);
    }));
  };
  all("table.sorts").forEach((table) => {
    const rows = [...table.tBodies].map((body) => [...body.rows]);
    sorting(all("thead tr:last-child th", table), (column, sign) => rows.forEach((group, i) => {
      table.tBodies[i].append(...[...group].sort((a, b) => compare(cellValue(a, column), cellValue(b, column), sign)));
    }));
  });
  all("table.matrix").forEach((table) => {
    const heads = all("thead tr:last-child th", table);
    const bodies = [...table.tBodies];
    const rows = bodies.map((body) => all("tr:not(.kindname)", body));
    const across = document.getElementById("across");
    let column = null, sign = -1;
    const flat = make("tbody", { className: "kind", hidden: true });
    table.append(flat);
    const arrange = () => {
      const order = (group) => column === null ? group : [...group].sort((a, b) => compare(cellValue(a, column), cellValue(b, column), sign));
      bodies.forEach((body) => { body.hidden = across.checked; });
      flat.hidden = !across.checked;
      if (across.checked) flat.append(...order(rows.flat()));
      else bodies.forEach((body, i) => body.append(...order(rows[i])));
    };
    sorting(heads, (chosen, direction) => { column = chosen; sign = direction; arrange(); });
    across.addEventListener("change", () => {
      if (column === null && across.checked) heads.filter((h) => h.classList.contains("num"))[0]?.querySelector(".sort").click();
      arrange();
    });
  });

  // Tabs: without this script every panel is simply shown.
  all(".tabs").forEach((box, b) => {
    const panels = [...box.children].filter((node) => node.classList.contains("panel"));
    if (panels.length < 2) return;
    box.classList.add("tabbed");
    const list = make("div", { role: "tablist", ariaLabel: box.dataset.label });
    list.setAttribute("role", "tablist");
    const tabs = panels.map((panel, i) => {
      const tab = make("button", { type: "button", id: `tab-${b}-${i}` }, panel.dataset.tab, make("small", { textContent: panel.dataset.note }));
      tab.setAttribute("role", "tab");
      panel.id = `panel-${b}-${i}`;
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", tab.id);
      tab.setAttribute("aria-controls", panel.id);
      tab.addEventListener("click", () => select(i));
      return tab;
    });
    const select = (chosen, focus) => tabs.forEach((tab, i) => {
      tab.setAttribute("aria-selected", String(i === chosen));
      tab.tabIndex = i === chosen ? 0 : -1;
      panels[i].hidden = i !== chosen;
      if (focus && i === chosen) tab.focus();
    });
    list.addEventListener("keydown", (event) => {
      const now = tabs.indexOf(document.activeElement);
      const next = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (now < 0 || next === undefined) return;
      event.preventDefault();
      select((next + tabs.length) % tabs.length, true);
    });
    list.append(...tabs);
    box.prepend(list);
    select(0);
  });

  // Legends of charts: a name hides and shows its series.
  all("figure .legend li[data-series]").forEach((item) => {
    const series = all(`.plot [data-series="${item.dataset.series}"]`, item.closest("figure"));
    const button = make("button", { type: "button", className: "toggle" }, ...item.childNodes);
    const show = (shown) => {
      button.setAttribute("aria-pressed", String(shown));
      series.forEach((node) => node.toggleAttribute("hidden", !shown));
    };
    button.addEventListener("click", () => show(button.getAttribute("aria-pressed") === "false"));
    show(item.dataset.off === undefined);
    item.append(button);
  });

  // Flipped examples: by task and direction.
  all(".flips").forEach((box) => {
    const task = box.querySelector(".by-task"), direction = box.querySelector(".by-direction");
    const items = all("li", box);
    const filter = () => {
      items.forEach((item) => {
        item.hidden = !((!task.value || item.dataset.task === task.value) && (!direction.value || item.dataset.direction === direction.value));
      });
      box.querySelector(".empty").hidden = items.some((item) => !item.hidden);
    };
    task.addEventListener("change", filter);
    direction.addEventListener("change", filter);
  });

  // Points of a picture: the nearest under the pointer, or the next one by arrow key. `current` says what is drawn now:
  // the chart, the places of its points, what is told of each, and how one is marked (none when -1).
  const tip = document.getElementById("tip");
  const walk = (plot, current) => {
    let at = -1;
    const show = (i, spoken) => {
      const { chart, places, told, marked } = current();
      at = i;
      marked(i);
      const [x, y] = places[i], lines = told(i);
      if (spoken) plot.parentElement.querySelector(".readout").textContent = lines.join(" · ");
      const box = chart.getBoundingClientRect(), scale = box.width / chart.viewBox.baseVal.width;
      tip.textContent = lines.join("\n");
      tip.hidden = false;
      const left = box.left + x * scale, wide = tip.offsetWidth;
      tip.style.left = `${Math.max(4, left + 14 + wide > innerWidth ? left - wide - 14 : left + 14)}px`;
      tip.style.top = `${Math.max(4, box.top + y * scale - tip.offsetHeight - 8)}px`;
    };
    const hide = () => { current().marked(-1); tip.hidden = true; };
    plot.addEventListener("pointermove", (event) => {
      const { chart, places, flat = 1 } = current();
      const box = chart.getBoundingClientRect(), scale = chart.viewBox.baseVal.width / box.width;
      const px = (event.clientX - box.left) * scale, py = (event.clientY - box.top) * scale;
      let nearest = -1, least = Infinity;
      places.forEach(([x, y], i) => {
        const distance = (x - px) ** 2 + ((y - py) / flat) ** 2;
        if (distance < least) { least = distance; nearest = i; }
      });
      if (nearest >= 0) show(nearest, false);
    });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const last = current().places.length - 1;
      const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
      if (event.key === "Escape") hide();
      if (next === undefined || last < 0) return;
      event.preventDefault();
      show(Math.min(Math.max(next, 0), last), true);
    });
  };
  all(".plot:has([data-points])").forEach((plot) => {
    const chart = plot.querySelector("svg.chart");
    const points = JSON.parse(chart.dataset.points), runs = JSON.parse(chart.dataset.runs);
    const marker = chart.querySelector(".marker"), cursor = chart.querySelector(".cursor");
    const percent = (value) => (100 * value).toFixed(1);
    const told = (i) => {
      const [, , run, evaluation, generation, fitness, best] = points[i];
      return [runs[run], `evaluation ${evaluation}, generation ${generation}`, `fitness ${percent(fitness)}, best so far ${percent(best)}`];
    };
    const marked = (i) => {
      marker.classList.toggle("on", i >= 0);
      if (i >= 0) { cursor.setAttribute("x1", points[i][0]); cursor.setAttribute("x2", points[i][0]); }
    };
    // Candidates stand close along the axis of evaluations, so distance across it counts half.
    walk(plot, () => ({ chart, places: points, flat: 2, told, marked }));
  });

  // Text to copy, tables to keep.
  all(".copyable").forEach((box) => {
    const copy = make("button", { type: "button", className: "copy", textContent: "Copy" });
    copy.addEventListener("click", async () => {
      const pre = box.querySelector("pre");
      try {
        await navigator.clipboard.writeText(pre.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(pre);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 2000);
    });
    box.append(copy);
  });
  const quoted = (value) => /[",\r\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
  const csv = (lines) => lines.map((line) => line.map(quoted).join(",")).join("\r\n") + "\r\n";
  const saveButton = (name, lines) => {
    const save = make("button", { type: "button", className: "csv", textContent: "Save as CSV", ariaLabel: `Save as CSV: ${name}` });
    save.addEventListener("click", () => {
      const link = make("a", { href: URL.createObjectURL(new Blob([csv(lines())], { type: "text/csv" })), download: `${name}.csv` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
    return save;
  };
  const rowsOf = (table) => {
    const heads = all("thead tr:last-child th", table);
    const body = [...table.tBodies].filter((group) => !group.hidden).flatMap((group) => all("tr:not(.kindname)", group));
    const kept = heads.map((head, i) => i).filter((i) => heads[i].dataset.key);
    const ranged = new Set(kept.filter((i) => body.some((row) => row.cells[i]?.dataset.lo !== undefined)));
    const header = kept.flatMap((i) => ranged.has(i) ? [heads[i].dataset.key, `${heads[i].dataset.key} low`, `${heads[i].dataset.key} high`] : [heads[i].dataset.key]);
    const lines = body.map((row) => kept.flatMap((i) => {
      const cell = row.cells[i];
      const value = cell.dataset.v ?? (cell.classList.contains("none") ? "" : cell.textContent.trim());
      return ranged.has(i) ? [value, cell.dataset.lo ?? "", cell.dataset.hi ?? ""] : [value];
    }));
    return [header, ...lines];
  };
  all("table[data-csv]").forEach((table) => {
    const save = saveButton(table.dataset.csv, () => rowsOf(table));
    // A picture that is also a table has its button where the picture is, whether the table is open or not.
    const folded = table.closest("figure details");
    if (folded) folded.before(save);
    else (table.closest(".scroll") ?? table).after(save);
  });
  all("figure[data-table]").forEach((figure) => {
    const table = document.querySelector(`table[data-csv="${figure.dataset.table}"]`);
    figure.append(saveButton("tasks", () => rowsOf(table)));
  });
  all("figure[data-series]").forEach((figure) => {
    const lines = () => [["search", "evaluation", "generation", "fitness", "best so far"],
      ...JSON.parse(figure.dataset.series).flatMap(([name, generations, fitness]) => {
        let best = "";
        return fitness.map((value, i) => {
          if (value !== null && (best === "" || value > best)) best = value;
          return [name, i + 1, generations[i], value ?? "", best];
        });
      })];
    figure.append(saveButton(figure.dataset.csv, lines));
  });

  // What the pictures of sections are drawn with.
  const svg = (tag, attributes = {}, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
    node.append(...children);
    return node;
  };
  const ticks = (low, high, about) => {
    const rough = (high - low) / about, power = 10 ** Math.floor(Math.log10(rough));
    const size = [1, 2, 5, 10].map((unit) => unit * power).reduce((a, b) => Math.abs(Math.log(a / rough)) <= Math.abs(Math.log(b / rough)) ? a : b);
    const first = Math.ceil(low / size - 1e-9), last = Math.floor(high / size + 1e-9);
    return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => [(first + i) * size, Math.max(0, -Math.floor(Math.log10(size * 100) + 1e-9))]);
  };

/* sections */
})();
