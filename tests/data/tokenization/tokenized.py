"""Made-up events tokenized: what tests of the tokenizer share."""

from ehr_scaling.data.codes import maps
from ehr_scaling.data.events import events
from ehr_scaling.data.tokenization import counting, fitting, tokenizer
from ehr_scaling.data.tokenization.tokenizer import Timelines
from tests.data import made_up

MAPS = maps.load(None)


def fit(folder, code_maps=MAPS, parents=None, **options):
    settings, parents = tokenizer.options(options), parents or {}
    counts = counting.merge(counting.count(p, settings, code_maps, parents) for p in events.shards(folder, "train"))
    return fitting.fit(counts, settings, code_maps, parents)


def tokenize(folder, split, vocabulary, code_maps=MAPS, parents=None):
    parts, stats = [], []
    for path in events.shards(folder, split):
        for part, stat in tokenizer.tokenize(path, vocabulary, code_maps, parents or {}):
            parts.append(part)
            stats.append(stat)
    return parts, stats


def names(vocabulary, part: Timelines, p: int = 0):
    return [vocabulary.tokens[i] for i in part.tokens[part.offsets[p] : part.offsets[p + 1]]]


def one(tmp_path, history, train=None, **options):
    """Tokens of one patient of the tuning split under the vocabulary of `train` (itself, if None)."""
    train = {2: history} if train is None else train
    folder = made_up.write(tmp_path / "events", train=train, tuning={9_001: history}, held_out={9_003: history})
    vocabulary = fit(folder, **{"min_count": 1, **options})
    parts, stats = tokenize(folder, "tuning", vocabulary)
    assert len(parts) == 1
    return vocabulary, parts[0], stats[0]
