"""A model that leaves: the same logits in other programs, the same bits back, a card, and nothing of any patient."""

import dataclasses
import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from ehr_scaling import artifacts, study
from ehr_scaling.data import vocabulary
from ehr_scaling.data.timelines import timelines
from ehr_scaling.errors import UserError
from ehr_scaling.finished_models import release
from ehr_scaling.grid import manifest
from ehr_scaling.models import export
from ehr_scaling.models.sizes import SHAPES
from ehr_scaling.models.transformer import Transformer
from ehr_scaling.training import loop
from ehr_scaling.training.setup import restored_params
from tests import forked, small

VOCAB, PADDED, CONTEXT = 40, 48, 32
THREE_LAYERS = next(name for name, shape in SHAPES.items() if shape.layers == 3)
MODELS = [
    ("14k", False, "standard", "none"),
    ("14k", True, "mup", "none"),
    (THREE_LAYERS, False, "mup", "none"),
    (THREE_LAYERS, True, "standard", "none"),
    ("14k", True, "standard", "conv"),
    ("14k", False, "mup", "conv"),
    (THREE_LAYERS, True, "mup", "conv"),
    (THREE_LAYERS, False, "standard", "conv"),
]
ATOL = 1e-5


def filled(model):
    """Parameters without ones and zeros: what has the wrong place then shows."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    params = jax.jit(model.clone(attention="xla").init)(jax.random.key(0), tokens, tokens)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noise = [x + 0.1 * jax.random.normal(key, x.shape) for x, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noise)


def rows(*shape, seed=0):
    return np.random.default_rng(seed).integers(1, VOCAB, shape).astype(np.int32)


def ours(model, params, tokens):
    return np.asarray(jax.jit(model.apply)({"params": params}, tokens, np.ones_like(tokens))[0])


@pytest.fixture(scope="module", params=MODELS, ids=lambda x: "-".join(map(str, x)))
def exported(request, tmp_path_factory):
    """The model, its parameters, and the folder it was saved in."""
    size, tied, parametrization, mixing = request.param
    folder = tmp_path_factory.mktemp("model")
    model = Transformer(SHAPES[size], VOCAB, PADDED, tied, parametrization=parametrization, mixing=mixing)
    params = filled(model)
    export.save(folder, model, params, CONTEXT)
    return model, params, folder


def test_what_comes_back_is_the_same_to_the_last_bit(exported):
    model, params, folder = exported
    again, back = export.load(folder)
    assert again.clone(parent=None, attention=model.attention) == model
    padding = {"embedding": np.s_[VOCAB:], "head": np.s_[:, VOCAB:]}
    for name, where in padding.items():
        if name in params:
            assert not np.asarray(back[name])[where].any()
            back[name] = back[name].at[where].set(params[name][where])
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_padding_of_the_vocabulary_changes_no_bit_of_a_logit(exported):
    model, params, folder = exported
    tokens = rows(2, CONTEXT)
    again, back = export.load(folder)
    np.testing.assert_array_equal(ours(again.clone(attention="xla"), back, tokens), ours(model, params, tokens))


def by_hand(folder, tokens):
    """Logits (T, V) of a row by the files alone, in float64: Llama as its paper has it, and the sum of a mixing."""
    about, x = json.loads((folder / export.CONFIG).read_text()), load_file(folder / export.TENSORS)
    w = {name: value.astype(float) for name, value in x.items()}
    heads, size, count = about["num_attention_heads"], about["head_dim"], len(tokens)
    angle = np.arange(count)[:, None] * about["rope_theta"] ** (-np.arange(0, size, 2) / size)
    turn = np.concatenate([angle, angle], axis=1)[:, None]

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + about["rms_norm_eps"]) * w[f"{name}.weight"]

    def turned(x):
        low, high = np.split(x, 2, axis=-1)
        return x * np.cos(turn) + np.concatenate([-high, low], axis=-1) * np.sin(turn)

    stream = w["model.embed_tokens.weight"][tokens]
    for n in range(about["num_hidden_layers"]):
        layer = f"model.layers.{n}"

        def linear(x, name, layer=layer):
            return x @ w[f"{layer}.{name}.weight"].T

        read = norm(stream, f"{layer}.input_layernorm")
        mixed = read.copy()
        for j, weight in enumerate(w.get(f"{layer}.mixing.weight", ()), 1):
            mixed[j:] += read[:-j] * weight
        q, k, v = (linear(mixed, f"self_attn.{name}_proj").reshape(count, heads, size) for name in "qkv")
        scores = np.einsum("thk,shk->hts", turned(q), turned(k)) / np.sqrt(size)
        scores[:, *np.triu_indices(count, 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out = np.einsum("hts,shk->thk", weights / weights.sum(-1, keepdims=True), v).reshape(count, -1)
        stream = stream + linear(out, "self_attn.o_proj")
        read = norm(stream, f"{layer}.post_attention_layernorm")
        gate = linear(read, "mlp.gate_proj")
        stream = stream + linear(gate / (1 + np.exp(-gate)) * linear(read, "mlp.up_proj"), "mlp.down_proj")
    head = w["model.embed_tokens.weight" if about["tie_word_embeddings"] else "lm_head.weight"]
    return norm(stream, "model.norm") @ head.T


def test_the_files_alone_say_what_the_logits_are(exported):
    model, params, folder = exported
    tokens = rows(CONTEXT, seed=2)
    expected = ours(model, params, tokens[None])[0, :, 1:VOCAB]
    np.testing.assert_allclose(by_hand(folder, tokens)[:, 1:], expected, atol=ATOL)


def test_the_module_beside_the_weights_is_there_where_it_is_needed(exported):
    model, _, folder = exported
    assert (folder / export.CODE).is_file() == (model.mixing == "conv")
    lines = (folder / export.CODE).read_text().splitlines() if model.mixing == "conv" else []
    assert len(lines) < 80 and not any("ehr_scaling." in line for line in lines if "import" in line)


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    """torch and transformers, which may not ask a hub, nor keep the module of a model between tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        transformers.utils.logging.disable_progress_bar()
        yield torch, transformers


def theirs(hub, folder):
    """The model as its card says how to load it."""
    _, transformers = hub
    if (folder / export.CODE).is_file():
        return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    return transformers.LlamaForCausalLM.from_pretrained(folder)


def logits_of(hub, model, tokens, **more):
    torch, _ = hub
    with torch.no_grad():
        return model(torch.tensor(tokens).long(), **more).logits.numpy()


def test_transformers_gives_the_same_logits(exported, hub):
    model, params, folder = exported
    tokens = rows(3, CONTEXT, seed=3)
    loaded = theirs(hub, folder)
    assert loaded.dtype == hub[0].float32 and loaded.config.vocab_size == VOCAB
    expected = ours(model, params, tokens)[..., 1:VOCAB]
    difference = np.abs(logits_of(hub, loaded, tokens)[..., 1:] - expected).max()
    print(f"largest difference of logits: {difference:.2g}, of logits up to {np.abs(expected).max():.3g}")
    assert difference < ATOL


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_rows_padded_on_the_left_are_those_alone(exported, hub, kernel):
    torch, _ = hub
    model, params, folder = exported
    loaded, tokens = theirs(hub, folder), rows(2, 12, seed=4)
    loaded.set_attn_implementation(kernel)
    padded, seen = tokens.copy(), np.ones_like(tokens)
    padded[0, :5] = seen[0, :5] = 0
    got = logits_of(hub, loaded, padded, attention_mask=torch.tensor(seen))
    np.testing.assert_allclose(got[0, 5:, 1:], ours(model, params, tokens[:1, 5:])[0, :, 1:VOCAB], atol=ATOL)
    np.testing.assert_allclose(got[1, :, 1:], ours(model, params, tokens[1:])[0, :, 1:VOCAB], atol=ATOL)


def test_transformers_draws_what_our_logits_say(exported, hub):
    torch, _ = hub
    model, params, folder = exported
    tokens = rows(1, 6, seed=5)
    loaded, likeliest = theirs(hub, folder), ours(model, params, tokens)[0, -1].argmax()
    with torch.no_grad():  # PAD would be likelier still
        loaded.lm_head.weight[vocabulary.SPECIAL.index(vocabulary.PAD)] = 10 * loaded.lm_head.weight[likeliest]
    drawn = loaded.generate(torch.tensor(tokens).long(), max_new_tokens=6, do_sample=False).numpy()
    for t in range(6, drawn.shape[1]):
        assert drawn[0, t] == ours(model, params, drawn[:, :t].astype(np.int32))[0, -1].argmax()
    assert drawn.shape[1] == 12 or drawn[0, -1] == vocabulary.SPECIAL.index(vocabulary.END)


def test_what_transformers_saves_again_comes_back(exported, hub, tmp_path):
    model, params, folder = exported
    theirs(hub, folder).save_pretrained(tmp_path / "again")
    again, back = export.load(tmp_path / "again")
    tokens = rows(1, CONTEXT)
    np.testing.assert_array_equal(ours(again.clone(attention="xla"), back, tokens), ours(model, params, tokens))


def test_the_module_says_that_it_keeps_no_cache(exported, hub):
    if exported[0].mixing == "none":
        pytest.skip("a Llama keeps one")
    with pytest.raises(ValueError, match="keeps no cache"):
        logits_of(hub, theirs(hub, exported[2]), rows(1, 4), use_cache=True)


@pytest.fixture
def folder(tmp_path):
    model = Transformer(SHAPES["3.5k"], VOCAB, PADDED, True, mixing="conv")
    export.save(tmp_path, model, filled(model), CONTEXT)
    return tmp_path


def config_with(**changes):
    def damage(folder):
        about = json.loads((folder / export.CONFIG).read_text())
        for name, value in changes.items():
            part, _, field = name.rpartition("__")
            (about[part] if part else about)[field] = value
        (folder / export.CONFIG).write_text(json.dumps(about))

    return damage


def tensors_with(change):
    def damage(folder):
        tensors = load_file(folder / export.TENSORS)
        change(tensors)
        save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / export.TENSORS)

    return damage


def resized(size):
    def damage(folder):
        data = (folder / export.TENSORS).read_bytes()
        (folder / export.TENSORS).write_bytes(data[:size])

    return damage


NORM = "model.norm.weight"
DAMAGES = {
    "no config": (lambda folder: (folder / export.CONFIG).unlink(), "config.json is missing"),
    "no tensors": (lambda folder: (folder / export.TENSORS).unlink(), "model.safetensors is missing"),
    "config cut": (lambda folder: (folder / export.CONFIG).write_text("{"), "config.json is damaged"),
    "config of another kind": (lambda folder: (folder / export.CONFIG).write_text("[]"), "of no model that"),
    "another's config": (lambda folder: (folder / export.CONFIG).write_text("{}"), "it lacks 'ehr_scaling'"),
    "later format": (config_with(ehr_scaling__format=9), "format 9 is not 1"),
    "no heads": (config_with(num_attention_heads=0), "no whole number from 1 up"),
    "a fraction": (config_with(hidden_size=12.0), "no whole number from 1 up"),
    "odd heads": (config_with(num_attention_heads=5), "do not go together"),
    "another eps": (config_with(rms_norm_eps=1e-5), "rms_norm_eps is 1e-05, and should be 1e-06"),
    "another mixing": (config_with(ehr_scaling__mixing="none"), "architectures is"),
    "wider": (config_with(intermediate_size=64), "gate_proj.weight is float32"),
    "tensors cut": (resized(500), "model.safetensors is damaged"),
    "tensors empty": (resized(0), "model.safetensors is damaged"),
    "one tensor less": (tensors_with(lambda t: t.pop(NORM)), f"lacks {NORM}"),
    "one more": (tensors_with(lambda t: t.update(a=t[NORM])), "holds a, which is not of this model"),
    "halves": (tensors_with(lambda t: t.update({NORM: t[NORM].astype(np.float16)})), f"{NORM} is float16"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_one_line(folder, damage):
    change, told = DAMAGES[damage]
    change(folder)
    with pytest.raises(UserError) as refused:
        export.load(folder)
    assert told in str(refused.value) and str(folder) in str(refused.value)


PATIENTS = 400


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A work directory with two finished cells and one that is not; the finished ones, the better first."""
    workdir = tmp_path_factory.mktemp("study") / "w"
    changes = {"data.patients": PATIENTS, "data.tokens.min_patients": 10}
    packed = study.prepare(small.config(**changes), workdir)
    cells = [small.cell(packed, changes, **point) for point in ({}, {"budget": 4e8}, {"seed": 5})]
    results = [loop.job([cell], workdir, small.silent)[0] for cell in cells[:2]]
    assert results[0]["validation_loss"] < results[1]["validation_loss"]
    (workdir / "grid").mkdir(exist_ok=True)
    manifest.write(workdir / "grid" / manifest.MANIFEST, cells[::-1])
    return workdir, cells


@pytest.fixture(scope="module")
def released(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "model"
    return out, release.release(trained[0], out)


def test_the_best_finished_model_leaves_and_comes_back(trained, released):
    workdir, cells = trained
    out, done = released
    assert done["cell"] == cells[0].id and done["files"] == sorted(
        ["README.md", "tokens.json", export.CONFIG, export.TENSORS, export.GENERATION, export.CODE]
    )
    assert sorted(path.name for path in out.iterdir()) == sorted([*done["files"], artifacts.RECORD])
    model, params = restored_params(cells[0], workdir / "runs" / cells[0].id)
    again, back = export.load(out)
    tokens = np.random.default_rng(0).integers(1, model.vocab, (2, 64)).astype(np.int32)
    np.testing.assert_array_equal(
        ours(again.clone(attention=model.attention), back, tokens), ours(model, params, tokens)
    )


def test_tokens_are_told_and_nothing_is_counted(trained, released):
    facts = json.loads((released[0] / release.TOKENS).read_text())
    fitted = timelines.vocabulary(trained[0])
    assert list(facts["vocabulary"].items()) == [(token, i) for i, token in enumerate(fitted.tokens)]
    assert {scale: tuple(edges) for scale, edges in facts["values"].items()} == fitted.quantiles
    assert [row["from_seconds"] * 1e6 for row in facts["intervals"].values()] == list(fitted.interval_bounds)
    assert [row["mean_seconds"] for row in facts["intervals"].values()] == [round(x) for x in fitted.interval_seconds]
    assert len(facts["prefix"]) == fitted.context_tokens and facts["prefix"][-1] == "AGE"
    assert "counts" not in facts and facts["fingerprint"] == fitted.fingerprint


def test_the_card_says_what_it_is(trained, released):
    text = (released[0] / release.CARD).read_text()
    cell = trained[1][0]
    result = artifacts.read_json(next((trained[0] / "runs" / cell.id).glob("*/metrics/metrics")))
    for said in (
        f"| records | {cell.data} |\n| their patients | generated |",
        f"| patients trained on | {cell.patients:,} |",
        f"{cell.tokens:,}",
        f"{cell.N_body:,} of the body",
        f"{cell.flops:.4g} FLOPs",
        f"{result['validation_loss']:.4f} ± {result['validation_loss_se']:.4f} nats a token",
        "muon, weight decay 0.1",
        "| mixing of neighbouring positions | conv |",
        "ehr_scaling 0.1.0",
        "commit ",
        "Not decided yet: whoever passes this model on writes its licence here",
        "## What it must not be used for",
        "nothing that the model learnt of them is medicine",
        "AutoModelForCausalLM.from_pretrained",
        "trust_remote_code=True",
    ):
        assert said in text, said
    assert "terms of use" not in text
    assert all(len(line) <= 120 or line.startswith("|") for line in text.splitlines())


def test_the_example_of_the_card_runs(released, hub, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", (released[0] / release.CARD).read_text(), re.S)
    names = {}
    exec(example.replace("this folder", str(released[0])), names)
    assert names["logits"].shape == (1, 2, names["model"].config.vocab_size)
    assert not hub[0].isnan(names["logits"].softmax(-1)).any()


def test_nothing_of_a_patient_leaves(trained, released):
    """No id, no date, no path, in no file: nor in the bytes of the weights' header."""
    workdir, _ = trained
    events = [pq.read_table(path) for path in sorted((workdir / "events" / "data").rglob("*.parquet"))]
    ids = {str(i) for table in events for i in pc.unique(table["subject_id"]).to_pylist()}
    years = {str(y) for table in events for y in pc.unique(pc.year(table["time"].drop_null())).to_pylist()}
    assert len(ids) >= PATIENTS * 0.9 and years
    for path in sorted(released[0].iterdir()):
        text = path.read_bytes().decode("utf-8", "replace")
        if path.name == export.TENSORS:
            text = text[: text.index("}}") + 2]
        assert not re.search(r"\b\d{4}-\d\d-\d\d\b|\d\d:\d\d", text), path.name
        assert str(workdir) not in text and str(workdir.parent) not in text, path.name
        long_ids = {i for i in ids if len(i) > 5}
        assert not long_ids & set(re.findall(r"\d+", text)), path.name


def real(workdir, cells, tmp_path, **changes):
    """The same study as if of real patients."""
    other = tmp_path / "real"
    other.mkdir()
    for name in ("timelines", "runs"):
        (other / name).symlink_to(workdir / name)
    (other / "grid").mkdir()
    cell = dataclasses.replace(cells[0], generated=False, data="MIMIC-IV", **changes)
    manifest.write(other / "grid" / manifest.MANIFEST, [cell])
    return other


def test_of_real_patients_no_small_number_is_told(trained, tmp_path, monkeypatch):
    workdir, cells = trained
    other = real(workdir, cells, tmp_path, patients=313, unique_tokens=9)
    first = timelines.vocabulary(workdir).intervals[0]
    monkeypatch.setattr(release, "_of_many", lambda workdir, fitted: {first})
    release.release(other, tmp_path / "out")
    text = (tmp_path / "out" / release.CARD).read_text()
    assert "| records | MIMIC-IV |\n| their patients | real |" in text and "| patients trained on | 310 |" in text
    assert "(U) | under 10 |" in text and "can repeat what it read" in " ".join(text.split())
    assert "| their licence | not stated |" in text and "under terms of use (of these: not stated)" in text
    facts = json.loads((tmp_path / "out" / release.TOKENS).read_text())
    assert {token for token, row in facts["intervals"].items() if row["mean_seconds"] is not None} == {first}


def test_patients_of_an_interval_are_counted_one_by_one(trained):
    fitted = timelines.vocabulary(trained[0])
    patients = dict.fromkeys(fitted.intervals, 0)
    for patient in timelines.read(trained[0], "train"):
        for i in set(patient["tokens"].tolist()):
            if fitted.tokens[i] in patients:
                patients[fitted.tokens[i]] += 1
    least = sorted(patients.values())[len(patients) // 2]
    fitted.settings["min_patients"] = max(least, 11)
    many = {token for token, n in patients.items() if n >= fitted.settings["min_patients"]}
    assert 0 < len(many) < len(patients) and release._of_many(trained[0], fitted) == many


def test_tokens_of_few_real_patients_do_not_leave(trained, tmp_path, monkeypatch):
    workdir, cells = trained
    fitted = timelines.vocabulary(workdir)
    rare = dataclasses.replace(fitted, settings={**fitted.settings, "min_patients": 0})
    monkeypatch.setattr(release.timelines, "vocabulary", lambda folder: rare)
    with pytest.raises(UserError, match=r"tokens that fewer than 10 patients have \(min_patients is 0\)"):
        release.release(real(workdir, cells, tmp_path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    release.release(workdir, tmp_path / "out")  # generated ones are nobody


def test_code_maps_leave_by_name_alone(trained):
    fitted = timelines.vocabulary(trained[0])
    with_maps = dataclasses.replace(fitted, settings={**fitted.settings, "code_maps": {"atc": "0a1b2c3d"}})
    told = json.dumps(release.token_facts(trained[0], with_maps, generated=True))
    assert '"code_maps": ["atc"]' in told and "0a1b2c3d" not in told


def test_whole_or_not_at_all(trained, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(release, "card", fails)
    with pytest.raises(RuntimeError, match="in the middle"):
        release.release(trained[0], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_something_else_stays_as_it_is(trained, released, tmp_path):
    workdir, cells = trained
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"--out=.* holds something else"):
        release.release(workdir, out)
    with pytest.raises(UserError, match=r"--out=.* holds something else"):
        release.release(workdir, released[0], cells[1].id)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    assert export.load(released[0])[0].shape.name == cells[0].size


def test_again_changes_nothing_and_a_completed_card_stays(trained, tmp_path):
    out = tmp_path / "out"
    out.mkdir()  # an empty one is nobody's
    release.release(trained[0], out)
    (out / release.CARD).write_text("under this licence")
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    release.release(trained[0], out)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    export.load(out)
    data = bytearray((out / export.TENSORS).read_bytes())
    data[-1] ^= 1
    (out / export.TENSORS).write_bytes(data)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        export.load(out)


def launch(*flags):
    return forked.Popen(
        [sys.executable, "-m", "launch.export", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_command(trained, tmp_path):
    workdir, cells = trained
    best = launch(f"--workdir={workdir}", f"--out={tmp_path}/a/b")
    other = launch(f"--workdir={workdir}", f"--out={tmp_path}/c", f"--cell={cells[1].id}")
    said, errors = best.communicate(timeout=300)
    assert best.returncode == 0, errors[-2000:]
    first, second, *_ = said.splitlines()
    assert first.startswith("exporting a model of") and cells[0].id in second and "least validation loss" in second
    assert "trust_remote_code=True" in said and export.load(tmp_path / "a" / "b")
    said, errors = other.communicate(timeout=300)
    assert other.returncode == 0 and cells[1].id in said and "least" not in said, errors[-2000:]


MISTAKES = {
    ("--out={tmp}/out",): "--workdir",
    ("--workdir={w}",): "--out",
    ("--workdir={tmp}/nothing", "--out={tmp}/out"): "manifest.jsonl is missing",
    ("--workdir={w}", "--out={tmp}/out", "--cell=0"): "--cell=0 is not in",
    ("--workdir={w}", "--out={tmp}/out", "--cell={unfinished}"): "holds no finished run",
    ("--workdir={w}", "--runs={tmp}/runs.csv", "--cell=0"): "--cell=0: --runs is the table of all",
    ("--workdir={w}", "--out={w}"): "holds something else",
    ("--workdir={w}", "--out=gs://bucket/model"): "only --workdir can be in a bucket",
    ("--workdir={w}", "--out={tmp}/out", "more"): "unexpected argument 'more'",
}


def test_a_mistake_is_one_line(trained, tmp_path):
    """All at once: most of their time is their imports."""
    workdir, cells = trained
    names = {"tmp": tmp_path, "w": workdir, "unfinished": cells[2].id}
    running = {flags: launch(*(flag.format(**names) for flag in flags)) for flags in MISTAKES}
    for flags, process in running.items():
        said = process.communicate(timeout=300)[1]
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert process.returncode and "Traceback" not in said, (flags, said[-2000:])
        assert len(errors) == 1 and MISTAKES[flags] in errors[0], (flags, said[-2000:])
    assert not (tmp_path / "out").exists()
