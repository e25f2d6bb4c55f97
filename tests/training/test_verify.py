"""Promise: a look at a whole run names every file that is not as it was written, and no other."""

import shutil

from mmrobust import recipe as recipes
from mmrobust.training import RunFolder
from mmrobust.training.verify import problems


def test_every_damaged_file_is_named(tiny, tmp_path):
    run = RunFolder.create(recipes.load(tiny), out=tmp_path / "run")
    run.add_metrics({"seed": 1})
    assert problems(run) == []
    entry = '{"file": "predictions/seed-1-0123456789ab.safetensors", "sha256": "0"}'
    run.write(run.evaluation, f'{{"format": 1, "predictions": {{"1": {entry}}}}}')
    run.env.write_text("{}")
    run.recipe.unlink()
    run.metrics.write_text("{}\n")
    (run.seed(1) / "epoch-0001").mkdir(parents=True)
    messages = problems(run)
    assert len(messages) == 5
    names = ("recipe.yaml", "env.json", "metrics.jsonl", "seed-1-0123456789ab.safetensors", "epoch-0001")
    for name, message in zip(names, messages, strict=True):
        assert (name in message and "; " in message) or "manifest.json is missing" in message
    (run.path / "manifest.json").write_text("{}")
    (message,) = problems(run)
    assert "manifest.json is damaged" in message
    shutil.rmtree(run.path)
    assert problems(run) == []  # nothing is there that could be damaged
