"""A federated averaging run from Python with the pieces of ``pieces.py``.

Its arguments are ``ID=URL ...``, where one ID must be ``testing``. Without arguments the demo nodes are used.
"""

import sys
from pathlib import Path

import fedws

nodes = dict(text.split("=", 1) for text in sys.argv[1:]) or fedws.Plan().workers | fedws.Plan().evaluator
result = fedws.run_sync(
    evaluator={"testing": nodes.pop("testing")},
    workers=nodes,
    plugins=Path(__file__).with_name("pieces.py"),
    dataset="small_digits",
    model="small_net:hidden=64",
    loss="smoothed",
    optimizer="quick",
    algorithm="fedavg",
    rounds=30,
)
for score in result.evaluations("federated"):
    print(f"round {score['round']:2}: accuracy {score['accuracy']:.2%}, loss {score['loss']:.3f}")
print(f"the trained model and the records of the run are in {result.directory}")
