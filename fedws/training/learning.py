"""Training and scoring on the data of one node: what tasks are made of, under one name."""

from fedws.core.seeds import initial as initial
from fedws.core.seeds import order_seed as order_seed
from fedws.core.seeds import seeded as seeded
from fedws.training.evaluation import Score as Score
from fedws.training.evaluation import score as score
from fedws.training.local import Trained as Trained
from fedws.training.local import gradient as gradient
from fedws.training.local import train as train
from fedws.training.objective import device as device
from fedws.training.task_context import Workspace as Workspace
