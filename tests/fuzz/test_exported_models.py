"""A model's folder of any content is a model, or one line."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ehr_scaling.finished_models import saved
from ehr_scaling.models import export
from ehr_scaling.models.sizes import SHAPES
from ehr_scaling.models.transformer import Transformer
from tests.fuzz.one_line import fuzz, result_or_line
from tests.test_export import CONTEXT, PADDED, VOCAB, filled

NOTHING = re.compile("(?!)")  # the files hold no patients
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-2, 70),
        st.integers(),
        st.floats(),
        st.sampled_from(["", "none", "conv", "mup", "float32", "bfloat16", "llama", "9" * 400, "\n"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("abc"), inner, max_size=2)),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = Transformer(SHAPES["1.7k"], VOCAB, PADDED, True, mixing="conv")
    export.save(folder, model, filled(model), CONTEXT)
    return (folder / export.CONFIG).read_text(), load_file(folder / export.TENSORS)


def written(folder, config, tensors):
    (folder / export.CONFIG).write_text(config)
    save_file(tensors, folder / export.TENSORS)
    return folder


@fuzz(100)
@given(st.data())
def test_config(whole, tmp_path_factory, data):
    about = json.loads(whole[0])
    for _ in range(data.draw(st.integers(1, 3))):
        inside = about[export.OURS] if data.draw(st.booleans()) and isinstance(about.get(export.OURS), dict) else about
        name = data.draw(st.sampled_from(sorted(inside))) if inside else "x"
        if data.draw(st.integers(0, 4)):
            inside[name] = data.draw(VALUES)
        else:
            inside.pop(name, None)
    text = json.dumps(about) if data.draw(st.integers(0, 5)) else data.draw(st.text(max_size=20))
    folder = written(tmp_path_factory.mktemp("f"), text, whole[1])
    result_or_line(export.load, folder, secret=NOTHING)


@fuzz(60)
@given(st.data())
def test_tensors(whole, tmp_path_factory, data):
    folder = written(tmp_path_factory.mktemp("f"), *whole)
    path = folder / export.TENSORS
    match data.draw(st.sampled_from(["bytes", "cut", "tensor"])):
        case "bytes":
            content = bytearray(path.read_bytes())
            for _ in range(data.draw(st.integers(1, 4))):
                content[data.draw(st.integers(0, 2000))] = data.draw(st.integers(0, 255))
            path.write_bytes(content)
        case "cut":
            path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, 4000))])
        case "tensor":
            name = data.draw(st.sampled_from(sorted(whole[1])))
            shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
            kind = data.draw(st.sampled_from([np.float32, np.float64, np.int8, np.bool_, np.float16]))
            save_file(whole[1] | {name: np.zeros(shape, kind)}, path)
    result_or_line(export.load, folder, secret=NOTHING)


@fuzz(60)
@given(st.data())
def test_names_of_tokens(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("f") / "tokens.json"
    about = {"vocabulary": {f"T{k}": k for k in range(4)}}
    match data.draw(st.sampled_from(["text", "value", "id", "name"])):
        case "text":
            path.write_text(data.draw(st.text(max_size=20)))
        case "value":
            path.write_text(
                json.dumps(data.draw(VALUES) if data.draw(st.booleans()) else {"vocabulary": data.draw(VALUES)})
            )
        case "id":
            about["vocabulary"]["T1"] = data.draw(VALUES)
            path.write_text(json.dumps(about))
        case "name":
            about["vocabulary"][data.draw(st.text(max_size=4))] = data.draw(st.integers(0, 5))
            path.write_text(json.dumps(about))
    tokens = result_or_line(saved.token_names, path, 4, secret=NOTHING)
    assert tokens is None or len(set(tokens[0])) == 4
