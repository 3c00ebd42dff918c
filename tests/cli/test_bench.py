from pathlib import Path

from tests.cli.running import Run


def test_each_backend_is_a_line_of_each_tower(run: Run, saved: Path) -> None:
    done = run("bench", saved, "--backends", "torch", "--batches", "2,1", "--seconds", 0.01)
    assert done.code == 0
    assert done.out.count("torch float32") == 2
    for word in ("image", "text", "latency", "rows/s, batch 1", "rows/s, batch 2", "cosine", "1.00000", "100.0%"):
        assert word in done.out
    assert "half of the calls were within" in done.err


def test_json_and_a_plot(run: Run, saved: Path, table: Path, tmp_path: Path) -> None:
    plot = tmp_path / "a.png"
    words = ("--data", table, "--backends", "torch", "--batches", "1", "--seconds", 0.01, "--plot", plot, "--json")
    done = run("bench", saved, *words)
    assert done.code == 0
    answer = done.json()
    assert {one["graph"] for one in answer["results"]} == {"image", "text"}
    assert all(one["latency_ms"] > 0 and one["agreement"]["same"] == 1 for one in answer["results"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert str(plot) in done.err


def test_it_says_what_it_cannot_do(run: Run, saved: Path) -> None:
    assert "there are torch, openvino, onnx" in (done := run("bench", saved, "--backends", "tpu")).err
    assert done.code == 2
    assert (
        '--batches: wanted whole numbers with commas between them, got "a"' in run("bench", saved, "--batches", "a").err
    )
    assert "--plot a.pdf: wanted a name that ends in .png" in run("bench", saved, "--plot", "a.pdf").err
