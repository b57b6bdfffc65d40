// The sliders of the report's panel, and what they show.
(function () {
  const K = JSON.parse(document.getElementById("planner-data").textContent), P = K.panel;
  const panel = document.getElementById("panel");

  function count(x) {
    for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
      if (x >= 0.9995 * size) return Number((x / size).toPrecision(3)) + "\u00a0" + unit;
    return String(Number(x.toPrecision(3)));
  }
  function power(x) {
    const [mantissa, exponent] = x.toExponential(2).split("e");
    const raised = String(Number(exponent)).replace(/[-0-9]/g, c => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
    return Number(mantissa) + "\u00a0×\u00a010" + raised;
  }
  const span = ([low, high], text) => text(low) + " to " + text(high);
  const loss3 = x => x.toFixed(3);

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
    made.append(...children);
    return made;
  }

  function slider(id, label, [low, start, high], text) {
    const input = element("input", {
      type: "range", id, min: Math.log(low), max: Math.log(high), step: "any", value: Math.log(start),
    });
    const shown = element("output", {for: id});
    const value = () => Math.exp(Number(input.value));
    const show = () => { shown.textContent = text(value()); };
    input.addEventListener("input", () => { show(); update(); });
    show();
    return {value, row: element("div", {class: "slide"}, element("label", {for: id}, label), input, shown)};
  }

  function card(name, value, note) {
    return element("div", {class: "card"}, element("div", {class: "name"}, name), element("div", {class: "value"}, value),
      element("div", {class: "note"}, note));
  }

  // Loss of every size at this compute. Only numbers go into the markup.
  function curve(found) {
    const wide = 720, high = 220, pad = {l: 56, r: 12, t: 10, b: 34};
    const keep = found.curve.N.map((N, i) => [Math.log10(N), found.curve.losses[i]])
      .filter(([x]) => Math.abs(x - Math.log10(found.N)) <= 1.5);
    const top = found.loss * 1.12, bottom = found.loss * 0.985;
    const x0 = keep[0][0], x1 = keep[keep.length - 1][0];
    const X = x => pad.l + (x - x0) / (x1 - x0) * (wide - pad.l - pad.r);
    const Y = y => pad.t + (top - y) / (top - bottom) * (high - pad.t - pad.b);
    const parts = [];
    const add = (name, attributes, text = "") => {
      const written = Object.entries(attributes).map(([key, value]) => `${key}="${value}"`).join(" ");
      parts.push(`<${name} ${written}>${text}</${name}>`);
    };
    const words = {"font-size": 12, fill: "var(--muted)"};
    const band = found.band.map(N => X(Math.min(Math.max(Math.log10(N), x0), x1)));
    add("rect", {x: band[0], y: pad.t, width: Math.max(band[1] - band[0], 1), height: high - pad.t - pad.b,
      fill: "var(--good-soft)"});
    for (let e = Math.ceil(x0); e <= x1; e++) {
      add("line", {x1: X(e), x2: X(e), y1: pad.t, y2: high - pad.b, stroke: "var(--rule)"});
      add("text", {x: X(e), y: high - pad.b + 16, "text-anchor": "middle", ...words}, count(10 ** e));
    }
    for (const y of [found.loss, found.loss * 1.05, found.loss * 1.1]) {
      add("line", {x1: pad.l, x2: wide - pad.r, y1: Y(y), y2: Y(y), stroke: "var(--rule)"});
      add("text", {x: pad.l - 6, y: Y(y) + 4, "text-anchor": "end", ...words}, loss3(y));
    }
    const drawn = keep.filter(([, y]) => y <= top).map(([x, y]) => X(x).toFixed(1) + "," + Y(y).toFixed(1));
    add("polyline", {points: drawn.join(" "), fill: "none", stroke: "var(--ink)", "stroke-width": 2});
    add("circle", {cx: X(Math.log10(found.N)), cy: Y(found.loss), r: 5, fill: "var(--accent)"});
    add("text", {x: wide - pad.r, y: high - 4, "text-anchor": "end", ...words},
      `body parameters; shaded: within ${100 * K.band} % of the lowest loss`);
    const made = element("div", {});
    made.innerHTML = `<svg viewBox="0 0 ${wide} ${high}" role="img" aria-label="Loss of every size at this compute">` +
      `${parts.join("")}</svg>`;
    return made;
  }

  const compute = slider("plan-compute", "Compute (FLOPs)", P.C, power);
  // A table that does not say how many tokens its runs had sets no limit.
  const data = P.tokens && slider("plan-data", P.patients ? "Patients" : "Unique tokens",
    P.patients ? P.tokens.map(x => x / P.tokens[1] * P.patients) : P.tokens, count);
  const passes = P.tokens && slider("plan-passes", "Passes over them, at most", P.passes, x => x.toPrecision(2));
  const outcome = element("div", {"aria-live": "polite"});

  function update() {
    const tokens = !data ? Infinity : P.patients ? data.value() / P.patients * P.tokens[1] : data.value();
    const found = plan(K, compute.value(), tokens, passes ? passes.value() : Infinity);
    if (found.refused.length) {
      const why = found.refused[0][0].toUpperCase() + found.refused[0].slice(1);
      outcome.replaceChildren(element("p", {}, element("span", {class: "chip bad"}, "no plan"), ` ${why}.`));
      return;
    }
    const doubtful = K.doubt !== "", word = found.extrapolated ? "extrapolated" : doubtful ? "doubtful" : "supported";
    const more = P.patients ? "patients" : "unique tokens";
    let exchange = {
      "no limit": "Any number of tokens: the table does not say how many are unique.",
      enough: `More ${more} would not help at this compute.`,
      "not told": `Whether more ${more} would help is not told: the runs do not say what it costs to see tokens again.`,
    }[found.data];
    if (found.data === "limits") exchange = isFinite(found.patients_are_worth)
      ? `The ${more} limit this plan: twice as many are worth ${found.patients_are_worth.toPrecision(3)} times the compute.`
      : `The ${more} limit this plan: twice as many reach what no compute does with these.`;
    else if (data && isFinite(found.feeds.C)) {
      const these = count(P.patients ? data.value() : tokens);
      exchange += ` These ${these} feed ${count(found.feeds.N)} parameters at ${power(found.feeds.C)} FLOPs.`;
    }
    const cards = [
      card("Size N*", count(found.N), `${span(found.N_interval, count)}; within ${100 * K.band} % of the lowest loss: ` +
        `${span(found.band, count)}`),
      card("Tokens D", count(found.D), data ? `${found.passes.toPrecision(3)} passes` : ""),
      card("Loss, nats a token", loss3(found.loss), `${span(found.loss_interval, loss3)}`),
    ];
    for (const [task, {auroc, interval, word}] of Object.entries(found.outcomes))
      cards.push(card(`AUROC, ${task.replace(/[_-]/g, " ")}`, loss3(auroc), `${span(interval, loss3)}, ${word}`));
    if (!isNaN(found.batch)) cards.push(card("Batch, peak rate", `${count(found.batch)} tokens`,
      `rate ${found.rate.toPrecision(3)}, as the runs had`));
    outcome.replaceChildren(
      element("p", {}, element("span", {class: `chip ${found.extrapolated ? "warn" : "good"}`}, word), " " + exchange),
      element("div", {class: "cards"}, ...cards), curve(found));
  }

  panel.append(...[compute, data, passes].filter(Boolean).map(each => each.row), outcome);
  update();
})();
