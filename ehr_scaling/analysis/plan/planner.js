// Plans from the `planner` record of laws.json, as planner.py computes them. No library, no network.
"use strict";

function loss(law, theta, N, D) {
  const [E, A, B, alpha, beta, logK] = theta;
  const u = A - alpha * Math.log(N / law.scale[0]), v = B - beta * Math.log(D / law.scale[1]);
  const top = Math.max(u, v);
  const sum = top + Math.log(Math.exp(u - top) + Math.exp(v - top));
  return law.scale[2] * (Math.exp(E) + Math.exp(Math.exp(logK) * sum));
}

// log f at x = log N: between knots the cubic of their values and slopes, beyond them as at the end.
function interpolate(x, xs, ys, slopes) {
  if (x <= xs[0]) return ys[0];
  for (let i = 1; i < xs.length; i++) {
    if (x > xs[i]) continue;
    const wide = xs[i] - xs[i - 1], t = (x - xs[i - 1]) / wide, s = 1 - t;
    return s * s * ((1 + 2 * t) * ys[i - 1] + t * wide * slopes[i - 1]) + t * t * ((1 + 2 * s) * ys[i] - s * wide * slopes[i]);
  }
  return ys[ys.length - 1];
}

// Between points on straight lines, beyond them as at the end.
function straight(x, xs, ys) {
  if (x <= xs[0]) return ys[0];
  for (let i = 1; i < xs.length; i++)
    if (x <= xs[i]) return ys[i - 1] + (ys[i] - ys[i - 1]) * (x - xs[i - 1]) / (xs[i] - xs[i - 1]);
  return ys[ys.length - 1];
}

function quantile(values, share) {
  const sorted = Float64Array.from(values).sort(), at = share * (sorted.length - 1), low = Math.floor(at);
  return low + 1 < sorted.length ? sorted[low] + (at - low) * (sorted[low + 1] - sorted[low]) : sorted[low];
}

function lowestOf(values) {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] < values[best]) best = i;
  return best;
}

function gridOf(K) {
  const low = Math.log(K.seen.N[0] * K.reach[0]), high = Math.log(K.seen.N[1] * K.reach[1]);
  const N = Array.from({length: K.grid}, (_, i) => Math.exp(low + (high - low) * i / (K.grid - 1)));
  const xs = K.cost.sizes.map(Math.log), ys = K.cost.flops.map(Math.log);
  return {N, cost: N.map(n => n * Math.exp(interpolate(Math.log(n), xs, ys, K.cost.slopes)))};
}

// Loss by a law of repeated data at N and D positions, U of them unique: arXiv 2305.16264, 2605.01640.
function repeatedLoss(p, N, D, U) {
  if ("R_D" in p) {
    const G = Math.pow(p.alpha * p.A / (p.beta * p.B), 1 / (p.alpha + p.beta)), own = Math.min(U, D);
    const suits = Math.min(N, G * Math.pow(own * G, p.beta / p.alpha));
    D = own - own * p.R_D * Math.expm1(-(D / own - 1) / p.R_D);
    N = suits - suits * p.R_N * Math.expm1(-(N / suits - 1) / p.R_N);
    return p.E + p.A * Math.pow(N, -p.alpha) + p.B * Math.pow(D, -p.beta);
  }
  const penalty = p.P * Math.pow(Math.max(D / U - 1, 0), p.delta) * Math.pow(N / U, p.kappa);
  return p.E + p.A * Math.pow(N, -p.alpha) + p.B * Math.pow(D, -p.beta) + penalty;
}

// What the loss is with `unique` positions a pass, over that with those of the runs.
function factorOf(K, p, N, D, unique) {
  return K.repeats ? repeatedLoss(p, N, D, unique) / repeatedLoss(p, N, D, K.repeats.unique) : 1;
}

function bestOf(K, grid, C, data) {
  const p = K.repeats && K.repeats.parameters, D = grid.cost.map(cost => Math.min(C / cost, data.unique * data.most));
  const factors = grid.N.map((N, i) => factorOf(K, p, N, D[i], data.unique));
  const law = K.sizing.laws[0], losses = lossesOf(law, law.theta, grid, D, factors);
  return {D, factors, losses, at: lowestOf(losses)};
}

function lossesOf(law, theta, grid, D, factors) {
  return grid.N.map((N, i) => loss(law, theta, N, D[i]) * factors[i]);
}

// log N* by the line through the IsoFLOP optima, low and high end; null without one.
function lineAt(K, C) {
  const line = K.sizing.line;
  if (!line) return null;
  const u = Math.log(C / line.C0), logs = line.draws.map(([level, slope]) => level + slope * u);
  return [(1 - K.level) / 2, (1 + K.level) / 2].map(share => quantile(logs, share));
}

function bracketed(K, C) {
  const line = K.sizing.line;
  return line !== null && line.C[0] / 1.01 <= C && C <= line.C[1] * 1.01;
}

// Ends of log N* by the draws of the law that stands for the study.
function byDraws(K, grid, D, factors) {
  const law = K.sizing.laws[0];
  const logs = law.draws.map(theta => Math.log(grid.N[lowestOf(lossesOf(law, theta, grid, D, factors))]));
  return [(1 - K.level) / 2, (1 + K.level) / 2].map(share => quantile(logs, share));
}

// About log N of the best size: all that the draws, laws about as good and the line say of it, and beyond the runs
// how far off that may be.
function optima(K, grid, C, data, D, factors, best) {
  if (K.sizing.laws[0].draws.length < 20) return [NaN, NaN];
  const found = byDraws(K, grid, D, factors), line = lineAt(K, C);
  for (const law of K.sizing.laws.slice(1))
    found.push(Math.log(grid.N[lowestOf(lossesOf(law, law.theta, grid, D, factors))]));
  if (line && (!K.repeats || data.unique === K.repeats.unique)) {
    const cap = data.unique * data.most, fewest = Math.log(grid.N[Math.max(grid.cost.findIndex(cost => C / cost <= cap), 0)]);
    found.push(...line.map(end => Math.max(end, fewest)));
  }
  const further = K.z * K.size_drift * Math.max(Math.log10(C / K.top), 0);
  return [best - Math.hypot(best - Math.min(...found), further), best + Math.hypot(Math.max(...found) - best, further)];
}

// Whether law and line have intervals of N* with nothing in common, without any limit of data.
function disjoint(K, grid, C) {
  const line = lineAt(K, C);
  if (!line || K.sizing.laws[0].draws.length < 20) return false;
  const free = grid.cost.map(cost => C / cost), [low, high] = byDraws(K, grid, free, grid.N.map(() => 1));
  // What lies at an end of the grid may lie beyond it.
  const first = Math.log(grid.N[0]), last = Math.log(grid.N[K.grid - 1]);
  return Math.max(low > first ? low : -Infinity, line[0]) > Math.min(high < last ? high : Infinity, line[1]);
}

// As near as the steps of the grid allow.
function allTaken(D, cap, grid) {
  return D >= cap * grid.N[0] / grid.N[1];
}

function bisect(enough, most) {
  if (!enough(most)) return Infinity;
  let low = 0, high = Math.log(most);
  while (high - low > 1e-3) {
    const middle = (low + high) / 2;
    if (enough(Math.exp(middle))) high = middle; else low = middle;
  }
  return Math.exp(high);
}

function worth(K, grid, C, data) {
  const lowest = (C, data) => { const found = bestOf(K, grid, C, data); return found.losses[found.at]; };
  const target = lowest(C, {...data, unique: 2 * data.unique});
  if (target >= lowest(C, data) * (1 - 1e-9)) return 1;
  return bisect(factor => lowest(C * factor, data) <= target, 1e6);
}

// What twice the patients do: see planner.py.
function morePatients(K, grid, C, data, D) {
  if (!isFinite(K.repeats ? data.unique : data.unique * data.most)) return {data: "no limit", worth: NaN};
  const gain = worth(K, grid, C, data);
  if (gain > 1) return {data: "limits", worth: gain};
  const told = K.repeats || (D <= data.unique && K.seen.passes[1] !== null && K.seen.passes[1] <= 1);
  return told ? {data: "enough", worth: 1} : {data: "not told", worth: NaN};
}

function feeds(K, grid, data) {
  const cap = data.unique * data.most;
  if (!isFinite(cap)) return {N: NaN, C: NaN};
  const least = Math.min(...K.cost.flops) * grid.N[0];
  const takesAll = factor => {
    const found = bestOf(K, grid, least * factor, data);
    return found.at > 0 && allTaken(found.D[found.at], cap, grid);
  };
  const C = least * bisect(takesAll, Math.max(...K.cost.flops) * grid.N[K.grid - 1] * cap / least);
  return isFinite(C) ? {N: grid.N[bestOf(K, grid, C, data).at], C} : {N: NaN, C: NaN};
}

function percent(share) {
  return (100 * share).toFixed(1) + "\u00a0%";
}

function powerLaw(coefficients, ...of) {
  if (!coefficients) return NaN;
  return Math.exp(of.reduce((sum, x, i) => sum + coefficients[i + 1] * Math.log(x), coefficients[0]));
}

function sigmoid(curve, [a, b, c], loss, floor = curve.floor) {
  const u = (loss - curve.centre) / curve.spread;
  return floor + (c - floor) / (1 + Math.exp(b * u - a));
}

function outcomeOf(curve, loss, interval, K, extrapolated) {
  const central = sigmoid(curve, curve.theta, loss);
  const byLoss = interval.map(end => sigmoid(curve, curve.theta, end) - central).sort((x, y) => x - y);
  const drawn = curve.draws.map(theta => sigmoid(curve, theta, loss));
  const seen = curve.losses[0] <= loss && loss <= curve.losses[1];
  const apart = curve.others.map(([floor, ...theta]) => Math.abs(sigmoid(curve, theta, loss, floor) - central));
  const forms = seen ? 0 : K.z * Math.max(0, ...apart) / 2;
  const reach = [(1 - K.level) / 2, (1 + K.level) / 2].map((share, k) =>
    Math.hypot(byLoss[k], quantile(drawn, share) - central, curve.noise_reach, forms));
  const inside = !extrapolated && seen;
  return {
    auroc: central, interval: [Math.max(central - reach[0], 0), Math.min(central + reach[1], 1)],
    word: inside ? "supported" : "extrapolated",
  };
}

// C in FLOPs, unique tokens, passes over them, Infinity for no limit; everything that planner.Plan has but sentences.
function plan(K, C, uniqueTokens, mostPasses) {
  const data = {unique: uniqueTokens * K.positions, most: mostPasses};
  const grid = gridOf(K), first = K.laws[0];
  const {D, factors, losses, at} = bestOf(K, grid, C, data), passes = D[at] / data.unique;
  const tails = [(1 - K.level) / 2, (1 + K.level) / 2];

  const logs = first.draws.map(theta => Math.log(loss(first, theta, grid.N[at], D[at])));
  const decades = Math.max(Math.log10(C / K.top), 0);
  const own = loss(first, first.theta, grid.N[at], D[at]), best = own * factors[at];
  const apart = K.laws.slice(1).map(law => Math.abs(Math.log(loss(law, law.theta, grid.N[at], D[at]) / own)));
  const spread = apart.length ? Math.max(...apart) / 2 : 0;
  const slope = K.drift === null ? K.usual_drift : K.drift;
  const drift = decades > 0 ? slope * Math.max(decades, K.nearest) : 0, beyond = K.z * Math.hypot(drift, spread);
  const misfit = K.z * straight(Math.log10(C), K.misfit.level, K.misfit.deviation);
  const drawn = K.repeats ? K.repeats.draws.map(p => Math.log(factorOf(K, p, grid.N[at], D[at], data.unique))) : [0];
  const reach = tails.map(share => first.draws.length < 20 ? NaN : Math.hypot(
    K.widened * (quantile(logs, share) - Math.log(own)), misfit, beyond, K.shared, quantile(drawn, share) - Math.log(factors[at])));

  const near = grid.N.filter((_, i) => losses[i] <= losses[at] * (1 + K.band));
  const batch = powerLaw(K.batch, D[at]);
  const extrapolated = C > K.top * 1.01 || !bracketed(K, C) || K.missed !== null ||
    (passes > 1.01 && !K.repeats && K.seen.passes[1] === null) ||
    (!K.repeats && K.unique_tokens !== null && Math.min(uniqueTokens, D[at] / K.positions) > K.unique_tokens * 1.01) ||
    [["N", grid.N[at]], ["D", D[at]], ["passes", passes]].some(([name, value]) =>
      K.seen[name][1] !== null && value > K.seen[name][1] * 1.01 || (name !== "passes" && value < K.seen[name][0] / 1.01));
  const lossInterval = [best * Math.exp(-reach[0]), best * Math.exp(reach[1])];
  const outcomes = Object.fromEntries(K.outcomes.map(curve =>
    [curve.task, outcomeOf(curve, best, lossInterval, K, extrapolated)]));
  const largest = Math.max(0, ...apart), interval = optima(K, grid, C, data, D, factors, Math.log(grid.N[at])).map(Math.exp);
  const more = morePatients(K, grid, C, data, D[at]), past = C > K.top * 1.01;
  return {
    N: grid.N[at], D: D[at], passes, loss: best,
    loss_interval: lossInterval, outcomes, extrapolated,
    N_interval: interval, band: [near[0], near[near.length - 1]],
    data: more.data, patients_are_worth: more.worth, feeds: feeds(K, grid, data),
    batch, rate: powerLaw(K.rate, grid.N[at], batch),
    // The reasons of plan_words.py in their order, up to the numbers that it adds after a colon.
    refused: [
      [!bracketed(K, C) && first.word === "unidentified", `the law is unidentified: ${first.reason}`],
      [past && largest > K.tolerance, "laws that forecast the held-out runs about equally well disagree by " +
        `${percent(largest)} here, more than ${percent(K.tolerance)}`],
      [!bracketed(K, C) && disjoint(K, grid, C), "the ways to the best size disagree beyond their intervals"],
      [past && K.drift === null, "beyond the runs nothing tells how far off the law is: too few budgets to hold any out"],
      [!(isFinite(reach[0]) && isFinite(reach[1])), "the loss has no interval"],
      [at === 0 || at === K.grid - 1, "the best size lies further from the runs than a law can be asked"],
      [!(interval[1] <= K.wide * interval[0]),
        `the size is not told: known to no better than a factor of ${K.wide}`],
    ].filter(([holds]) => holds).map(([, reason]) => reason),
    curve: {N: grid.N, losses: losses.map(value => value * best / losses[at])},
  };
}

if (typeof module !== "undefined") module.exports = {plan};
