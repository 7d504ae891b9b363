"""The whole path from Python, on 8x8 digits: budget, supernet, search, verification, ONNX. About two minutes.

python examples/budget_to_model.py [FOLDER [STEPS [EVALUATIONS]]]
"""

import sys
from pathlib import Path

import nas

BUDGET = "latency_ms<=0.15@local/onnxruntime/fp32"


def main(folder: Path, steps: int, evaluations: int) -> None:
    trained = nas.train("digits", "digits", folder / "supernet", steps=steps, threads=1)
    print(f"supernet: {trained.accuracy}")
    run = nas.search("digits", folder / "supernet", budgets=[BUDGET], out=folder / "run", evaluations=evaluations)
    verified = nas.verify(run.path)
    print(f"{verified.rate.held} of {verified.rate.rows} architectures hold {BUDGET} in a fresh process")
    run = nas.load_run(run.path)  # with the verified latencies
    best = run.front.sort_values("accuracy_predicted").iloc[-1]
    exported = run.export(best["id"], folder / "best.onnx")
    print(f"{best['id']}: test accuracy {best['accuracy_test']:.3f}, written to {exported.file}")


if __name__ == "__main__":
    folder, steps, evaluations = [*sys.argv[1:], *["results/runs/example", 2000, 100][len(sys.argv) - 1 :]]
    main(Path(folder), int(steps), int(evaluations))
