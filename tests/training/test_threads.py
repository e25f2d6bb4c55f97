"""Promise: two threads that train in one process get the weights that each gets alone."""

import threading

import torch

from mmrobust.training import Run, train


def weights(run: Run) -> dict[str, bytes]:
    files = run.folder.path.glob("checkpoints/*/*/*.safetensors")
    return {str(path.relative_to(run.folder.path)): path.read_bytes() for path in files}


def test_two_threads_train_what_each_trains_alone(tiny, tmp_path):
    changes = {"a": ["model.fusion.dropout=0.3"], "b": ["model.fusion.dropout=0.2", "train.lr=1e-2"]}
    alone = {name: train(tiny, more, out=tmp_path / name, quiet=True) for name, more in changes.items()}
    barrier, beside, failed = threading.Barrier(2), {}, []

    def work(name: str, times: int) -> None:
        torch.set_num_threads(1)
        try:
            for i in range(times):
                barrier.wait(60)  # both build and draw at the same moment
                beside[name, i] = train(tiny, changes[name], out=tmp_path / f"{name}-{i}", quiet=True)
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=(name, 3)) for name in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(beside) == 6
    for (name, _), run in beside.items():
        assert weights(run) == weights(alone[name])
